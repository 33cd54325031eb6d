"""From prompts to guidance: what each step is told, each text encoded once, and the steps as A1111 counts them."""

from collections.abc import Sequence

import pytest
import torch

import marmo
from marmo.diffusion.denoiser import Parametrisation
from marmo.diffusion.guidance import ClassifierFree, Composed, Guidance, Timed, Unguided
from marmo.diffusion.noise import STABLE_DIFFUSION, NoiseTable
from marmo.diffusion.samplers import Query
from marmo.pipelines.conditioning import Clock, Conditioning, Text
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.text_encoders import Encoded
from marmo.request import Guidance as Limits
from marmo.request import ImageRequest
from marmo.request_parts import EVERYWHERE
from marmo.text.bpe import clip_tokenizer
from marmo.text.emphasis import Emphasis, Restored, interpolated
from marmo.text.prompt import Chunk

EPS = Parametrisation("eps", NoiseTable(STABLE_DIFFUSION))
STEPS, T = 10, 77


class Encoder:
    """Remembers what it reads.  The states 1 T' 2 hold a chunk's first id and the row's number."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.batches: list[int] = []

    def __call__(self, chunks: Sequence[Chunk], emphasis: Emphasis) -> Encoded:
        self.read += [clip_tokenizer().decode(chunk.ids) for chunk in chunks]
        self.batches.append(len(chunks))
        rows = torch.tensor([[chunk.ids[0] if chunk.ids else 0.0, index] for index, chunk in enumerate(chunks)])
        return Encoded(rows.repeat_interleave(T, 0)[None], rows)


def told(text: Text) -> str:
    """What a row of the fake U-Net is told: the first word of the text, and of how many chunks."""
    first = int(text.encoded.states[0, 0, 0])
    sign = "-" if text.is_negative else ""
    return f"{sign}{clip_tokenizer().decode([first]) if first else ''}/{text.encoded.states.shape[1] // T}"


def guidance_of(prompt: str, encoder: Encoder | None = None, steps: int = STEPS, **more: object) -> Guidance[str]:
    fields = {"steps": STEPS, "guidance_scale": 7.0, "negative_prompt": "", "sampler": "euler", **more}
    request = ImageRequest(prompt=prompt, **fields)
    request = request.model_copy(update={"guidance": request.guidance.resolve(EVERYWHERE)})
    sigmas = torch.linspace(steps, 0, steps + 1)
    clock = Clock.of(request, sigmas)
    return Conditioning(request, clock, clip_tokenizer(), T, encoder or Encoder(), told, "blind {}".format).guidance(
        EPS
    )[0]


def walked(prompt: str, steps: int = STEPS, **more: object) -> list[str]:
    """The first word of the prompt's row at each step."""
    guidance = guidance_of(prompt, steps=steps, **more)
    return [guidance.rows(index, float(steps - index))[-1].split("/")[0] for index in range(steps)]


# By instruction


def query_at(sigma: float) -> Query:
    return Query(torch.zeros(1, 1, 1, 1), torch.tensor(sigma), 0)


def test_two_scales_ask_neither_the_picture_and_both():
    """Brooks et al. 2023, equation 3; and where the words do not pull, the picture does not either."""
    scales = {"guidance_scale": 7.0, "image_guidance_scale": 1.5}
    guidance = guidance_of("fox", **scales, guidance=Limits(low_sigma=1))
    assert guidance.rows(0, 2.0) == ("blind -/1", "-/1", "fox/1")
    assert guidance.rows(0, 1.0) == ("fox/1",)
    blind, uncond, cond = (torch.full((1, 1, 1, 1), value) for value in (2.0, 3.0, 7.0))
    x0 = guidance.combine(query_at(2.0), [blind, uncond, cond]).x0
    assert float(x0) == pytest.approx(2 + 1.5 * (3 - 2) + 7 * (7 - 3))
    assert float(guidance.combine(query_at(1.0), [cond]).x0) == 7
    assert isinstance(guidance_of("fox", **scales | {"image_guidance_scale": 1.0}), ClassifierFree)


def test_two_scales_with_prompts_joined_by_and():
    guidance = guidance_of("fox AND snow:0.5", guidance_scale=2.0, image_guidance_scale=3.0)
    assert guidance.rows(0, 2.0) == ("blind -/1", "-/1", "fox/1", "snow/1")
    parts = [torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 5.0, 4.0)]
    assert float(guidance.combine(query_at(2.0), parts).x0) == pytest.approx(1 + 3 * (2 - 1) + 2 * (3 + 0.5 * 2))


# Steps


def test_ours_counts_the_steps_that_are_painted():
    assert walked("[cat:dog:0.5]") == ["cat"] * 5 + ["dog"] * 5
    assert walked("[cat:dog:0.5]", sampler="heun") == ["cat"] * 5 + ["dog"] * 5
    assert walked("[cat:dog:0.5]", steps=4) == ["cat", "cat", "dog", "dog"]  # image to image
    assert walked("[cat|dog]", steps=3) == ["cat", "dog", "cat"]
    assert walked("fox", negative_prompt="[cat:dog:2]", steps=3) == ["fox"] * 3


def test_a1111_counts_from_0_and_compares_with_steps_from_1():
    """`reconstruct_cond_batch(schedule, step)` takes the first text whose last step is not below `step`."""
    assert walked("[cat:dog:0.5]", prompt_syntax="a1111") == ["cat"] * 6 + ["dog"] * 4
    assert walked("[cat|dog]", prompt_syntax="a1111")[:4] == ["cat", "cat", "dog", "cat"]
    assert walked("[cat:dog:0.5]", steps=8, prompt_syntax="a1111") == ["cat"] * 6 + ["dog"] * 2  # 8 of 10 steps


def test_a1111_counts_every_answer_of_a_sampler_that_asks_twice():
    guidance = guidance_of("[cat:dog:4]", sampler="heun", prompt_syntax="a1111")
    asked = [(index, sigma) for index in range(3) for sigma in (10.0 - index, 9.0 - index)]
    words = [guidance.rows(index, sigma)[-1].split("/")[0] for index, sigma in asked]
    assert words == ["cat"] * 5 + ["dog"]


# Rows


def test_each_distinct_text_is_encoded_once():
    encoder = Encoder()
    guidance = guidance_of("a [cat|dog] [big:0.5]", encoder, negative_prompt="bad")
    for index in range(STEPS):
        guidance.rows(index, 1.0)
    assert sorted(encoder.read) == ["a cat", "a cat big", "a dog", "a dog big", "bad"]


def test_what_is_not_used_is_not_asked():
    assert isinstance(guidance_of("fox", guidance_scale=1.0), Unguided)
    encoder = Encoder()
    assert guidance_of("fox", encoder, guidance_scale=1.0, negative_prompt="bad").rows(0, 1.0) == ("fox/1",)
    assert encoder.read == ["fox"]
    assert isinstance(guidance_of("fox"), ClassifierFree)
    assert isinstance(guidance_of("[fox|cat]"), Timed)
    assert isinstance(guidance_of("fox", guidance_scale=1.0, sampler="euler_cfg_pp"), ClassifierFree)


def test_prompts_joined_by_and_pull_with_their_weights():
    guidance = guidance_of("fox AND snow:0.5 AND dark :-0.25", guidance_scale=4.0)
    assert isinstance(guidance, Composed)
    assert guidance.rows(0, 1.0) == ("-/1", "fox/1", "snow/1", "dark/1")
    x, *answers = torch.randn(5, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    uncond, fox, snow, dark = answers
    prediction = guidance.combine(Query(x, torch.tensor(1.0), 0), answers)
    pull = (fox - uncond) + 0.5 * (snow - uncond) - 0.25 * (dark - uncond)
    assert torch.allclose(prediction.x0, uncond + 4 * pull, atol=1e-6)
    assert prediction.cond is not None
    assert torch.allclose(prediction.cond, uncond + pull, atol=1e-6)


def test_parts_whose_weights_add_up_need_no_unconditional_row():
    guidance = guidance_of("fox :0.25 AND snow:0.75", guidance_scale=1.0)
    assert list(guidance.rows(0, 1.0)) == ["fox/1", "snow/1"]
    fox, snow = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    x0 = guidance.combine(Query(fox, torch.tensor(1.0), 0), [fox, snow]).x0
    assert torch.allclose(x0, 0.25 * fox + 0.75 * snow, atol=1e-6)


def test_one_part_of_weight_1_is_classifier_free_guidance():
    x, uncond, cond = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    query = Query(x, torch.tensor(1.5), 0)
    for rescale in (0.0, 0.6):
        one = ClassifierFree("cond", "uncond", 5.0, EPS, rescale).combine(query, [uncond, cond])
        same = Composed(["cond"], [1.0], "uncond", 5.0, EPS, rescale).combine(query, [uncond, cond])
        assert torch.equal(one.x0, same.x0)


def test_a1111_makes_the_parts_of_a_prompt_equally_long():
    long = "fox " * 80
    assert guidance_of(f"{long} AND snow", prompt_syntax="a1111").rows(0, 1.0) == ("-/1", "fox/2", "snow/2")
    assert guidance_of(f"{long} AND snow").rows(0, 1.0) == ("-/1", "fox/2", "snow/1")


def test_a1111_encodes_what_a_prompt_says_at_its_steps_together():
    encoder = Encoder()
    guidance = guidance_of("[cat:" + "dog " * 80 + ":0.5]", encoder, prompt_syntax="a1111")
    assert encoder.batches == [4, 1]  # two texts of two chunks, and the negative prompt
    assert [guidance.rows(index, 10.0 - index)[-1] for index in (0, 9)] == ["cat/2", "dog/2"]


# Emphasis


def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.ones(2, 5)
    weights[0, 1], weights[0, 3] = 1.5, 0.0
    return torch.randn(2, 5, 3, generator=generator) + 0.3, weights, torch.randn(1, 5, 3, generator=generator)


def test_interpolation_touches_only_its_own_token():
    given, weights, empty = states()
    moved = interpolated(given, weights, empty)
    assert torch.equal(moved[weights == 1], given[weights == 1])
    assert torch.allclose(moved[0, 3], empty[0, 3])
    assert torch.allclose(moved[0, 1], empty[0, 1] + 1.5 * (given[0, 1] - empty[0, 1]))


def test_restoring_keeps_the_mean_of_every_chunk():
    given, weights, empty = states()
    changed = Restored()(given, weights, empty)
    assert torch.allclose(changed.mean((1, 2)), given.mean((1, 2)))
    assert torch.equal(changed[1], given[1])
    shared = Restored((3, 1))(given, weights, empty)
    before, after = ((3 * values[0].mean() + values[1].mean()) / 4 for values in (given, shared))
    assert torch.allclose(before, after)


# Whole pictures


def paint(model: LatentDiffusion, prompt: str, **more: object) -> bytes:
    fields = {"width": 32, "height": 32, "steps": 4, "seed": 7, **more}
    return model.generate(marmo.ImageRequest(prompt=prompt, **fields)).images[0].tobytes()


@pytest.mark.long
def test_a_picture_of_every_mark(model: LatentDiffusion):
    plain = paint(model, "a red fox")
    for syntax in ("a1111", "comfyui", "plain"):
        assert paint(model, "a red fox", prompt_syntax=syntax) == plain
    others = [
        paint(model, "a (red:1.4) fox"),
        paint(model, "a (red:1.4) fox", prompt_syntax="a1111"),
        paint(model, "a (red:1.4) fox", prompt_syntax="plain"),
        paint(model, "a [red:blue:0.5] fox"),
        paint(model, "a red fox AND snow:0.5"),
        paint(model, "a red BREAK fox"),
        paint(model, "a red fox", negative_prompt="(bad:1.5) " + "dark " * 80),
    ]
    assert len({plain, *others}) == 8
    assert paint(model, "a (red:1.4) fox", prompt_syntax="comfyui") == others[0]


@pytest.mark.long
def test_an_adapter_is_refused_before_anything_is_painted(model: LatentDiffusion):
    with pytest.raises(ValueError, match="the LoRA 'ink'"):
        paint(model, "fox <lora:ink:1>")
