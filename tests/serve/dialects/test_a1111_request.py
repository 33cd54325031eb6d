"""A1111's bodies and options as requests: what each field becomes, what is passed over, what is refused."""

from base64 import b64encode
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.files.foreign_a1111 import read_a1111
from marmo.files.infotext import ENLARGERS, infotext
from marmo.files.pictures import find_record
from marmo.request import ImageRequest
from marmo.request_parts import Hires
from marmo.serve.dialects.a1111_answer import envelope, png_info_body
from marmo.serve.dialects.a1111_body import OFF, Img2Img, Txt2Img
from marmo.serve.dialects.a1111_lists import latent_upscale_modes, upscalers
from marmo.serve.dialects.a1111_options import FIXED, Options, Values
from marmo.serve.dialects.a1111_request import Wanted, read_img2img, read_txt2img
from marmo.serve.problems import Problem
from marmo.solver_names import SAMPLERS
from tests.serve.dialects.garbage import LETTERS, bodies
from tests.serve.dialects.pictures import picture
from tests.serve.toy_engine import toy_model, toy_picture

MODELS = (toy_model(), toy_model("other"))
PLAIN = Options()


def wanted(options: Options = PLAIN, **fields: object) -> Wanted:
    return read_txt2img({"prompt": "a fox", **fields}, options, MODELS)


def request(**fields: object) -> ImageRequest:
    return wanted(**fields).request


def problem(**fields: object) -> Problem:
    with pytest.raises(Problem) as error:
        wanted(**fields)
    return error.value


def test_nothing_but_a_prompt_is_the_models_own_in_a1111s_way():
    said = request()
    assert (said.width, said.steps, said.sampler, said.schedule, said.seed) == (None,) * 5
    assert (said.prompt_syntax, said.start, said.noise_source) == ("a1111", "a1111", "philox")


def test_null_is_as_good_as_nothing():
    fields = dict.fromkeys(Txt2Img.model_fields.keys() - {"prompt"})
    assert request(**fields) == request()


@pytest.mark.parametrize(
    ("sampler", "scheduler", "ours"),
    [
        ("Euler a", "Automatic", ("euler_ancestral", "normal")),
        ("Euler a", None, ("euler_ancestral", "normal")),
        ("DPM++ 2M", "automatic", ("dpmpp_2m", "karras")),
        ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras")),
        ("k_dpmpp_2m", "SGM Uniform", ("dpmpp_2m", "sgm_uniform")),
        ("DDIM", "automatic", ("ddim", "ddim_uniform")),
        ("DPM++ SDE", "exponential", ("dpmpp_sde", "exponential")),
        (None, "Karras", (None, "karras")),
        (None, "Automatic", (None, None)),
    ],
)
def test_samplers_in_a1111s_spelling(sampler, scheduler, ours):
    said = request(sampler_name=sampler, scheduler=scheduler)
    assert (said.sampler, said.schedule) == ours
    assert request(sampler_index=sampler, scheduler=scheduler) == said


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_infotext_and_body_mean_the_same(sampler):
    """What a body asks for is what A1111 would read out of the picture's infotext."""
    body = {"sampler_name": SAMPLERS[sampler].label, "seed": 3, "subseed": 5, "subseed_strength": 0.5, "clip_skip": 2}
    said = request(**body, steps=8, cfg_scale=5.5, width=64, height=32, eta=0.5, scheduler="Karras")
    painted = said.resolve(MODELS[0].defaults)
    text = infotext(find_record(BytesIO(toy_picture(painted, 0))))
    read = read_a1111(text)
    assert read.lost == ()
    same = read.request.model_copy(update={"model": "toy"}).resolve(MODELS[0].defaults)
    assert same == painted


def test_batches_are_pictures():
    assert request(batch_size=3, n_iter=4).num_images == 12
    assert "batch_size x n_iter" in problem(batch_size=64, n_iter=64).message


@pytest.mark.parametrize("name", sorted(OFF.keys() & {*Txt2Img.model_fields}))
def test_what_is_off_is_passed_over_and_what_is_on_refused(name: str):
    for value in OFF[name][0]:
        assert request(**{name: value}) == request()
    asked = {"styles": ["a"], "infotext": "Steps: 4", "restore_faces": True}
    assert problem(**{name: asked.get(name, 3)}).facts["field"] == name


def test_a_second_pass_in_a1111s_spelling():
    said = request(
        enable_hr=True, hr_scale=1.5, hr_upscaler="Latent (bicubic antialiased)", hr_second_pass_steps=7,
        hr_prompt="a red fox", hr_negative_prompt="blur", denoising_strength=0.4,
    )  # fmt: skip
    assert said.strength is None, "the strength is the second pass's"
    assert said.hires == Hires(
        scale=1.5, upscaler="latent-bicubic-antialiased", steps=7, strength=0.4, prompt="a red fox",
        negative_prompt="blur",
    )  # fmt: skip


def test_a_second_pass_alone_is_twice_as_large_and_like_the_first():
    said = request(enable_hr=True, hr_second_pass_steps=0, hr_prompt="", hr_negative_prompt="", steps=6)
    assert said.hires == Hires(scale=2)
    assert said.resolve(MODELS[0].defaults).hires == Hires(scale=2, upscaler="latent-bilinear", steps=6, strength=0.7)


@pytest.mark.parametrize(("across", "down", "size"), [(96, 128, (96, 128)), (96, 0, (96, 192)), (0, 128, (64, 128))])
def test_a_second_pass_of_a_size_has_no_scale(across: int, down: int, size: tuple[int, int]):
    said = request(enable_hr=True, hr_scale=4, hr_resize_x=across, hr_resize_y=down, width=48, height=96).hires
    assert said.scale is None and said.size(48, 96, 8) == size


def test_without_enable_hr_the_rest_means_nothing():
    fields = {"hr_scale": 99, "hr_upscaler": "LDSR", "hr_sampler_name": "Heun", "denoising_strength": 0.7}
    assert request(enable_hr=False, **fields) == request(**fields) == request()


def test_every_upscaler_that_is_listed_is_understood():
    names = [str(item["name"]) for item in (*upscalers(()), *latent_upscale_modes())]
    meant = {request(enable_hr=True, hr_upscaler=name).hires.upscaler for name in names}
    assert names[0] == "None" and meant == set(ENLARGERS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hr_upscaler", "R-ESRGAN 4x+"),
        ("hr_upscaler", "/etc/passwd"),
        ("hr_scale", 0.5),
        ("hr_scale", 9),
        ("hr_resize_x", -8),
        ("hr_second_pass_steps", -1),
        ("denoising_strength", 1.5),
        ("hr_checkpoint_name", "other"),
        ("hr_sampler_name", "Heun"),
        ("hr_scheduler", "Karras"),
    ],
)
def test_a_second_pass_that_cannot_be_is_refused_by_name(field: str, value: object):
    refusal = problem(**{"enable_hr": True, field: value})
    assert refusal.facts["field"] == field and field in refusal.message


def test_a_second_pass_may_say_that_it_is_like_the_first():
    same = {"hr_checkpoint_name": "Use same checkpoint", "hr_sampler_name": "Euler", "hr_scheduler": "Karras"}
    fields = {"enable_hr": True, "sampler_name": "Euler", "scheduler": "Karras"}
    assert request(**fields, **same) == request(**fields)


def test_infotext_and_body_mean_the_same_second_pass_and_edges():
    said = request(
        enable_hr=True, hr_upscaler="Latent (nearest)", hr_second_pass_steps=3, denoising_strength=0.6, tiling=True,
        hr_prompt="a red fox", seed=3, steps=8, width=64, height=32,
    )  # fmt: skip
    painted = said.resolve(MODELS[0].defaults)
    read = read_a1111(infotext(find_record(BytesIO(toy_picture(painted, 0)))))
    assert read.lost == () and painted.tiling == "both"
    assert read.request.model_copy(update={"model": "toy"}).resolve(MODELS[0].defaults) == painted


def test_families_without_a_second_pass_or_seamless_edges_say_so():
    unused = frozenset({"hires", "tiling"})
    defaults = MODELS[0].defaults.model_copy(update={"unused": unused})
    for fields in ({"enable_hr": True}, {"tiling": True}):
        with pytest.raises(ValueError, match="means nothing to this model"):
            request(**fields).resolve(defaults)
    assert request(enable_hr=False, tiling=False).resolve(defaults).tiling == "none"


def test_unknown_fields_are_neither_repeated_nor_kept():
    said = wanted(url="http://127.0.0.1:7860", auth="ana:very-secret", force_task_id="x", width=64)
    assert "very-secret" not in repr(said)
    assert said.parameters["width"] == 64 and "auth" not in said.parameters


def test_pictures_are_sent_back_only_if_asked():
    body = {"init_images": [b64encode(picture()).decode()], "prompt": "a cat"}
    assert read_img2img(body, Options(), MODELS).parameters["init_images"] is None
    kept = read_img2img({**body, "include_init_images": True}, Options(), MODELS)
    assert kept.parameters["init_images"] == body["init_images"]


def test_a_refiner_is_a_model_of_the_catalogue():
    said = request(refiner_checkpoint=f"other [{MODELS[1].sha256[:10]}]", refiner_switch_at=0.7).refiner
    assert (said.model, said.switch) == ("other", 0.7)
    assert request(refiner_checkpoint="", refiner_switch_at=0).refiner.model is None
    assert request(refiner_checkpoint="None", refiner_switch_at=None).refiner.model is None
    assert problem(refiner_checkpoint="/etc/passwd").code == "model_not_found"


def test_constants_of_diffusion_are_kept_from_other_families():
    unused = frozenset({"sampler", "schedule", "noise_source", "start", "discard_penultimate", "eta", "prompt_syntax"})
    model = replace(MODELS[0], defaults=MODELS[0].defaults.model_copy(update={"unused": unused}))
    said = read_txt2img({"prompt": "a fox", "sampler_name": "DPM2"}, Options(), (model,)).request
    assert said.resolve(model.defaults).prompt == "a fox"


def test_image_guidance_goes_to_models_that_have_it():
    body = {"init_images": [b64encode(picture()).decode()], "image_cfg_scale": 1.5}
    assert read_img2img(body, Options(), MODELS).request.image_guidance_scale is None
    edits = replace(MODELS[0], defaults=MODELS[0].defaults.model_copy(update={"image_guidance_scale": 1.2}))
    assert read_img2img(body, Options(), (edits,)).request.image_guidance_scale == 1.5


# options


def test_a_whole_object_posted_back_changes_nothing():
    options = Options(model="other", clip_skip=2, noise="CPU", eta_ancestral=0.5, eta_ddim=0.1, discard=True)
    assert options.updated(options.shown(MODELS), MODELS) == options
    changed = {**options.shown(MODELS), "sd_model_checkpoint": "toy"}
    assert options.updated(changed, MODELS) == replace(options, model="toy")


def test_unknown_options_are_passed_over():
    posted = {"outdir_samples": "/home/ana", "sd_checkpoints_limit": 9, "secret": {"token": [1]}, "forge_preset": "sd"}
    assert Options().updated(posted, MODELS) == Options()
    assert "forge_preset" not in Options().shown(MODELS)


@pytest.mark.parametrize("name", FIXED)
def test_options_that_cannot_be_had_are_refused_by_name(name: str):
    assert Options().updated({name: FIXED[name][-1]}, MODELS) == Options()
    with pytest.raises(Problem, match=name):
        Options().updated({name: "another"}, MODELS)


def test_options_act():
    options = Options().updated(
        {"CLIP_stop_at_last_layers": 2, "eta_ancestral": 0.5, "randn_source": "CPU", "sgm_noise_multiplier": True}
        | {"always_discard_next_to_last_sigma": True, "tiling": True, "sd_model_checkpoint": MODELS[1].sha256[:10]},
        MODELS,
    )
    said = wanted(options, sampler_name="Euler a").request
    assert (said.clip_skip, said.eta, said.noise_source, said.start) == (2, 0.5, "torch-cpu", "diffusers")
    assert said.discard_penultimate and said.model == "other"
    assert said.tiling == "both"
    assert wanted(options, tiling=False).request.tiling == "none"
    assert wanted(options, sampler_name="Euler a", eta=0.2).request.eta == 0.2
    assert wanted(options, sampler_name="DPM++ 2M").request.eta is None


def test_a_model_that_has_gone_gives_way_to_the_first():
    assert Options(model="gone").chosen(MODELS) == MODELS[0]
    assert Options(model="gone").shown(MODELS)["sd_model_checkpoint"] == f"toy [{MODELS[0].sha256[:10]}]"


# anything at all

WORDS = ("Euler a", "DPM++ 2M Karras", "Automatic", "karras", "toy", "CPU", "http://a", "data:image/png;base64,AA")


@settings(max_examples=80)
@given(bodies([*Txt2Img.model_fields, "auth"], *WORDS))
def test_any_txt2img_is_a_request_or_a_refusal(body):
    _only_refused(lambda: read_txt2img(body, Options(), MODELS))


@settings(max_examples=80)
@given(bodies([*Img2Img.model_fields, "auth"], *WORDS))
def test_any_img2img_is_a_request_or_a_refusal(body):
    _only_refused(lambda: read_img2img(body, Options(), MODELS))


@settings(max_examples=80)
@given(bodies([*Values.model_fields, *FIXED, "secret"], *WORDS))
def test_any_options_are_settings_or_a_refusal(posted):
    _only_refused(lambda: Options().updated(posted, MODELS))
    _only_refused(lambda: read_txt2img({"override_settings": posted}, Options(), MODELS))


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["parameters", "marmo", "Comment"]), st.text(LETTERS + "Seed: ,", max_size=80)))
def test_any_text_of_a_picture_is_answered(texts):
    assert png_info_body(texts).keys() == {"info", "items", "parameters"}


def _only_refused(read) -> None:
    try:
        read()
    except Problem as refusal:
        assert refusal.status in (400, 422) and refusal.message
        assert len(str(envelope(refusal))) < 3000
