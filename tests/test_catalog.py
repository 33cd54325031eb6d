"""From a checkpoint to a card: what a model file says of itself is believed where it can act, and else refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.checkpoint import random_checkpoint
from marmo.cards import latent_card, with_vae
from marmo.catalog import find, open_for, open_model
from marmo.diffusion.noise import STABLE_DIFFUSION, Betas
from marmo.files.infotext import infotext
from marmo.library import bundled
from marmo.pipelines.card import LatentCard
from marmo.request import ImageRequest
from marmo.text.bpe import clip_tokenizer
from marmo.weights.checkpoint import DEFAULTS_KEY, Checkpoint, open_checkpoint
from marmo.weights.export import write_single_file
from marmo.weights.forms import Network
from marmo.weights.notes import CONCEPTS_KEY
from marmo.weights.store import sha256


@pytest.fixture(scope="module")
def checkpoint(stand_in: Path) -> Checkpoint:
    return open_checkpoint(stand_in)


def with_config(checkpoint: Checkpoint, network: Network, **fields: object) -> Checkpoint:
    part = checkpoint.parts[network]
    other = replace(part, config=replace(part.config, **fields))
    return replace(checkpoint, parts={**checkpoint.parts, network: other})


def with_scheduler(checkpoint: Checkpoint, **options: object) -> LatentCard:
    return latent_card(replace(checkpoint, scheduler=options))


def with_defaults(checkpoint: Checkpoint, defaults: object) -> LatentCard:
    return latent_card(replace(checkpoint, metadata={DEFAULTS_KEY: json.dumps(defaults)}))


def test_a_single_file_is_stable_diffusion(stand_in: Path):
    card = find(stand_in)
    assert (card.name, card.betas, card.target, card.tokenizer) == (
        "stand-in.safetensors",
        STABLE_DIFFUSION,
        "eps",
        clip_tokenizer(),
    )
    assert (card.defaults.width, card.defaults.size_multiple) == (256, 8)
    assert find(str(stand_in)).files == (stand_in,)


def test_no_model_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    with pytest.raises(ValueError, match="no model comes with this copy of Marmo"):
        find(None)
    with pytest.raises(ValueError, match="No such file"):
        find(tmp_path / "none.safetensors")


def test_the_home_folder_may_be_a_tilde(stand_in: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(stand_in.parent))
    monkeypatch.setenv("USERPROFILE", str(stand_in.parent))
    assert find("~/stand-in.safetensors").path == stand_in


@pytest.mark.parametrize(
    ("network", "fields", "reason"),
    [
        ("unet", {"in_channels": 5}, "its unet turns 5 channels into 4, and latents have 4; Marmo knows models that"),
        ("unet", {"out_channels": 8}, "its unet turns 4 channels into 8, and latents have 4"),
        ("vae", {"latent_channels": 16}, "its unet turns 4 channels into 4, and latents have 16"),
        ("unet", {"context_width": 768}, "its unet reads texts 768 wide, and its text encoder writes 64"),
        ("text", {"vocab_size": 30522}, "its text encoder knows 30522 tokens, and its tokenizer has 49408"),
    ],
)
def test_networks_that_do_not_fit_together(
    checkpoint: Checkpoint, network: Network, fields: Mapping[str, object], reason: str
):
    with pytest.raises(ValueError, match=reason) as error:
        latent_card(with_config(checkpoint, network, **fields))
    assert str(checkpoint.path) in str(error.value)


def test_one_network_alone_does_not_paint(checkpoint: Checkpoint):
    for network, part in checkpoint.parts.items():
        with pytest.raises(ValueError, match=f"holds {network} alone; painting needs text, unet and vae"):
            latent_card(replace(checkpoint, parts={network: part}))


# Noise


@pytest.mark.parametrize(
    ("options", "betas"),
    [
        ({}, STABLE_DIFFUSION),
        (
            {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195, "num_train_timesteps": 500},
            Betas(kind="linear", start=0.0015, end=0.0195, num_levels=500),
        ),
        ({"beta_schedule": "squaredcos_cap_v2"}, Betas(kind="cosine", start=0.0, end=0.999)),
        ({"trained_betas": None, "rescale_betas_zero_snr": False, "clip_sample": True}, STABLE_DIFFUSION),
    ],
)
def test_noise_levels_of_a_folder(checkpoint: Checkpoint, options: Mapping[str, object], betas: Betas):
    assert with_scheduler(checkpoint, **options).betas == betas


def test_what_the_network_predicts(checkpoint: Checkpoint):
    for name, target in {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}.items():
        assert with_scheduler(checkpoint, prediction_type=name).target == target


@pytest.mark.parametrize(
    "options",
    [
        {"prediction_type": "noise"},
        {"prediction_type": ["epsilon"]},
        {"prediction_type": None},
        {"beta_schedule": "sigmoid"},
        {"beta_start": 0.02, "beta_end": 0.01},
        {"beta_start": float("nan")},
        {"beta_end": 1.5},
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": True},
        {"trained_betas": [0.1]},
        {"trained_betas": [0.1, 2.0]},
        {"trained_betas": "0.1 0.2"},
    ],
)
def test_noise_that_we_do_not_know_is_refused(checkpoint: Checkpoint, options: Mapping[str, object]):
    with pytest.raises(ValueError, match=f"{next(iter(options))}|noise levels"):
        with_scheduler(checkpoint, **options)


OPTIONS = ("prediction_type", "beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "trained_betas")
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
WORDS = st.sampled_from(["epsilon", "linear", "scaled_linear", "squaredcos_cap_v2", 0.001, 0.02, 1000])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(OPTIONS), JSON | WORDS))
def test_any_scheduler_is_a_card_or_a_refusal(checkpoint: Checkpoint, options: dict[str, object]):
    try:
        card = with_scheduler(checkpoint, **options)
    except ValueError:
        return
    values = card.betas.values()
    assert ((values > 0) & (values < 1)).all()


# Defaults


def test_a_model_may_bring_defaults(checkpoint: Checkpoint):
    defaults = with_defaults(checkpoint, {"steps": 4, "sampler": "euler", "width": 64, "size_multiple": 3}).defaults
    assert (defaults.steps, defaults.sampler, defaults.width, defaults.height) == (4, "euler", 64, 512)
    assert defaults.size_multiple == 8  # the autoencoder's, whatever the file says


@pytest.mark.parametrize(
    ("defaults", "reason"),
    [
        ({"width": 10**9}, "width: must be less than or equal to 8192"),
        ({"width": 100}, "width 100 is not a multiple of 8"),
        ({"steps": 0}, "steps: must be greater than or equal to 1"),
        ({"sampler": "magic"}, "must be 'euler'"),
        ({"widths": 64}, "widths: no such field; did you mean width"),
        ([], "must be an object"),
        ("", "must be an object"),
    ],
)
def test_defaults_that_no_picture_can_have(checkpoint: Checkpoint, defaults: object, reason: str):
    with pytest.raises(ValueError, match="carries defaults that cannot be used: ") as error:
        with_defaults(checkpoint, defaults)
    assert reason in str(error.value)


def test_defaults_that_are_no_json(checkpoint: Checkpoint):
    with pytest.raises(ValueError, match="carries defaults that cannot be used: the request: Invalid JSON"):
        latent_card(replace(checkpoint, metadata={DEFAULTS_KEY: "{"}))


def test_a_list_of_concepts_is_believed_where_the_corpus_has_them(checkpoint: Checkpoint):
    card = latent_card(replace(checkpoint, metadata={CONCEPTS_KEY: "fox  # for people\n\ncat\n"}))
    assert card.concepts == ("fox", "cat") and latent_card(checkpoint).concepts == ()
    with pytest.raises(ValueError, match=r"carries a list of concepts that cannot be used: 'foxx' is no concept of"):
        latent_card(replace(checkpoint, metadata={CONCEPTS_KEY: "foxx\ncat"}))


# Another autoencoder


def alone(path: Path, stand_in: Path) -> Path:
    checkpoint = open_checkpoint(stand_in)
    write_single_file(replace(checkpoint, parts={"vae": checkpoint.parts["vae"]}, kind=None, scheduler={}), path)
    return path


@pytest.mark.long
def test_another_autoencoder(stand_in: Path, tmp_path: Path):
    other = random_checkpoint(tmp_path / "other.safetensors", seed=1)
    lone = alone(tmp_path / "vae.safetensors", other)
    card = find(stand_in, vae=lone)
    assert (card.vae, card.files, card.name) == (find(stand_in).vae, (stand_in,), "stand-in.safetensors")
    name = "decoder.conv_in.weight"
    ours, its = (found.weights["vae"].read(name) for found in (card, find(other)))
    assert torch.equal(ours, its) and not torch.equal(ours, find(stand_in).weights["vae"].read(name))
    assert card.hashes() == {"stand-in.safetensors": sha256(stand_in), "autoencoder/vae.safetensors": sha256(lone)}
    request = ImageRequest(prompt="a fox", model=str(stand_in), vae=str(lone), width=64, height=64, steps=1, seed=1)
    own = request.model_copy(update={"vae": None})
    result, plain = (open_for(asked, "cpu", "float32").generate(asked) for asked in (request, own))
    record = result.records[0]
    assert record.request.vae == "vae.safetensors" and record.weights == card.hashes()
    assert (record.own_weights, record.model) == ({"stand-in.safetensors": sha256(stand_in)}, "stand-in")
    assert f"VAE hash: {sha256(lone)[:10]}, VAE: vae.safetensors" in infotext(record)
    assert result.images[0].tobytes() != plain.images[0].tobytes()
    whole = open_model(stand_in, "cpu", "float32", vae=other).generate(own)
    assert whole.images[0].tobytes() == result.images[0].tobytes()
    assert whole.records[0].request.vae == "other.safetensors"
    with pytest.raises(ValueError, match="was loaded with its own; load it with vae"):
        open_model(stand_in, "cpu", "float32").resolve(request)


def test_an_autoencoder_of_other_latents(checkpoint: Checkpoint, stand_in: Path):
    card = latent_card(checkpoint)
    with pytest.raises(ValueError, match=r"no autoencoder for stand-in.safetensors: its latents have 16 channels"):
        with_vae(card, with_config(checkpoint, "vae", latent_channels=16))
    with pytest.raises(ValueError, match=r"4 channels times 0.13 and"):
        with_vae(card, with_config(checkpoint, "vae", latent_scale=0.13))
    with pytest.raises(ValueError, match="holds text and no autoencoder"):
        with_vae(card, replace(checkpoint, parts={"text": checkpoint.parts["text"]}))
