"""The names that people write, for every sampler and schedule."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.solver_names import (
    A1111_DISCARDS,
    COMFYUI_DISCARDS,
    ETA,
    NOISE_SOURCES,
    SAMPLERS,
    SCHEDULES,
    NoiseSourceName,
    SamplerName,
    ScheduleName,
    Solver,
    exist,
    read_schedule,
    read_solver,
)

# Every name of A1111 1.10's menus and of its older, longer menu
A1111 = {
    "DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "dpmpp_2m_sde_heun", "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ 3M SDE": "dpmpp_3m_sde",
    "Euler a": "euler_ancestral", "Euler": "euler", "LMS": "lms", "Heun": "heun", "DPM2": "dpm_2",
    "DPM2 a": "dpm_2_ancestral", "Restart": "restart", "DDIM": "ddim", "PLMS": "plms", "UniPC": "unipc", "LCM": "lcm",
    "DDIM CFG++": "euler_cfg_pp",
}  # fmt: skip
OLDER = {
    "LMS Karras": ("lms", "karras"), "DPM2 Karras": ("dpm_2", "karras"), "DPM2 a Karras": ("dpm_2_ancestral", "karras"),
    "DPM++ 2S a Karras": ("dpmpp_2s_ancestral", "karras"), "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"), "DPM++ 2M SDE Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 2M SDE Heun Karras": ("dpmpp_2m_sde_heun", "karras"),
    "DPM++ 3M SDE Exponential": ("dpmpp_3m_sde", "exponential"),
    "k_dpmpp_2m_ka": ("dpmpp_2m", "karras"), "k_dpmpp_2m_sde_exp": ("dpmpp_2m_sde", "exponential"),
}  # fmt: skip
AUTOMATIC = {
    "karras": {"DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a", "Restart"},
    "exponential": {"DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"},
    "normal": {"Euler a", "Euler", "LMS", "Heun", "LCM"},
    # these have their own times and no schedule: the nearest of ours
    "ddim_uniform": {"DDIM", "PLMS", "DDIM CFG++"},
    "sgm_uniform": {"UniPC"},
}
COMFYUI = {
    "euler": "euler", "euler_cfg_pp": "euler_cfg_pp", "euler_ancestral": "euler_ancestral",
    "euler_ancestral_cfg_pp": "euler_ancestral_cfg_pp", "heun": "heun", "dpm_2": "dpm_2",
    "dpm_2_ancestral": "dpm_2_ancestral", "lms": "lms", "dpmpp_2s_ancestral": "dpmpp_2s_ancestral",
    "dpmpp_sde": "dpmpp_sde", "dpmpp_sde_gpu": "dpmpp_sde", "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_cfg_pp": "dpmpp_2m_cfg_pp", "dpmpp_2m_sde": "dpmpp_2m_sde", "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun": "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde": "dpmpp_3m_sde", "dpmpp_3m_sde_gpu": "dpmpp_3m_sde", "ddpm": "ddpm", "lcm": "lcm", "deis": "deis",
    "ddim": "ddim", "uni_pc": "unipc", "uni_pc_bh2": "unipc_bh2",
}  # fmt: skip
INVOKEAI = {
    "ddim": ("ddim", None), "ddpm": ("ddpm", None), "deis": ("deis", None), "deis_k": ("deis", "karras"),
    "lms_k": ("lms", "karras"), "pndm": ("plms", None), "heun_k": ("heun", "karras"), "euler_k": ("euler", "karras"),
    "euler_a": ("euler_ancestral", None), "kdpm_2": ("dpm_2", None), "kdpm_2_k": ("dpm_2", "karras"),
    "kdpm_2_a": ("dpm_2_ancestral", None), "kdpm_2_a_k": ("dpm_2_ancestral", "karras"),
    "dpmpp_2m_k": ("dpmpp_2m", "karras"), "dpmpp_2m_sde_k": ("dpmpp_2m_sde", "karras"),
    "dpmpp_sde_k": ("dpmpp_sde", "karras"), "unipc_k": ("unipc", "karras"), "lcm": ("lcm", None), "tcd": ("tcd", None),
}  # fmt: skip
SCHEDULES_OF_OTHERS = {
    "Uniform": "normal", "Karras": "karras", "Exponential": "exponential", "Polyexponential": "polyexponential",
    "SGM Uniform": "sgm_uniform", "KL Optimal": "kl_optimal", "Align Your Steps": "align_your_steps",
    "Simple": "simple", "Normal": "normal", "DDIM": "ddim_uniform", "Beta": "beta", "Turbo": "trailing",
    "ddim_uniform": "ddim_uniform", "sgm_uniform": "sgm_uniform", "kl_optimal": "kl_optimal",
}  # fmt: skip


@pytest.mark.parametrize(("said", "sampler"), [*A1111.items(), *COMFYUI.items()])
def test_samplers_of_a1111_and_comfyui(said, sampler):
    assert read_solver(said) == Solver(sampler)


@pytest.mark.parametrize(("said", "solver"), [*OLDER.items(), *INVOKEAI.items()])
def test_names_that_hold_their_schedule(said, solver):
    assert read_solver(said) == Solver(*solver)


@pytest.mark.parametrize(("said", "schedule"), SCHEDULES_OF_OTHERS.items())
def test_schedules_of_others(said, schedule):
    assert read_schedule(said) == schedule


def test_automatic_is_a_schedule_per_sampler():
    assert {label for labels in AUTOMATIC.values() for label in labels} == A1111.keys()
    for schedule, labels in AUTOMATIC.items():
        assert {read_solver(label, "Automatic").schedule for label in labels} == {schedule}
    assert read_solver("Euler a Karras", "Automatic") == Solver("euler_ancestral", "karras")


@pytest.mark.parity
def test_diffusers_classes():
    import diffusers

    ours = {name for peers in SAMPLERS.values() for name in peers.others if name.endswith("Scheduler")}
    assert all(hasattr(diffusers, name) for name in ours) and len(ours) == 15
    assert read_solver("DPMSolverMultistepScheduler", "karras") == Solver("dpmpp_2m", "karras")
    for ambiguous in ("DPMSolverSinglestepScheduler", "IPNDMScheduler", "SASolverScheduler"):
        assert not exist(ambiguous)


def test_every_name_has_its_row_and_its_own_label():
    assert SAMPLERS.keys() == {*get_args(SamplerName)}
    assert SCHEDULES.keys() == {*get_args(ScheduleName)}
    assert NOISE_SOURCES.keys() == {*get_args(NoiseSourceName)}
    assert ETA.keys() | A1111_DISCARDS | COMFYUI_DISCARDS <= SAMPLERS.keys()
    assert len({peers.label for peers in SAMPLERS.values()}) == len(SAMPLERS)
    assert len({words[0] for words in SCHEDULES.values()}) == len(SCHEDULES)


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_no_spelling_means_two_things(name):
    """A sampler's label and a schedule's, in any case and with any gaps, are that sampler and that schedule."""
    peers = SAMPLERS[name]
    for word, (schedule, labels) in itertools.product((name, peers.label), SCHEDULES.items()):
        for label in (schedule, *labels):
            assert read_solver(f"{word.upper()}  {label}") == Solver(name, schedule), (word, label)
            assert read_solver(word, label) == Solver(name, schedule)
        assert read_solver(word.replace(" ", "_").lower()) == Solver(name)


@pytest.mark.parametrize(
    ("sampler", "schedule", "sentence"),
    [
        ("eular a", None, "'eular a' does not exist; did you mean euler or euler_ancestral"),
        ("Euler a", "karas", "'karas' does not exist; did you mean karras"),
        ("DPM++ 2M Karras", "Exponential", "'DPM\\+\\+ 2M Karras' already says the schedule karras; leave out"),
        ("", None, "'' does not exist; the names are euler,"),
    ],
)
def test_refusals(sampler, schedule, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_solver(sampler, schedule)


@given(st.text(max_size=300), st.none() | st.text(max_size=300))
def test_any_text_is_a_solver_or_a_sentence(sampler, schedule):
    try:
        solver = read_solver(sampler, schedule)
    except ValueError as error:
        assert len(str(error)) < 700
        return
    assert exist(sampler, schedule) and solver.sampler in SAMPLERS
