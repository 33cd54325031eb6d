"""Regional prompts: shares that add up, what they decide, and what goes with them."""

from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marmo.pipelines.events import Step
from marmo.pipelines.latent import LatentDiffusion
from marmo.pipelines.regions import shares
from marmo.request import ImageRequest, Region

CPU = torch.device("cpu")
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def png(rows: list[list[int]]) -> bytes:
    picture, stream = Image.new("L", (len(rows[0]), len(rows))), BytesIO()
    picture.putdata([level for row in rows for level in row])
    picture.save(stream, "PNG")
    return stream.getvalue()


def request(*regions: Region, **fields: object) -> ImageRequest:
    asked = {"prompt": "a meadow", "width": 64, "height": 64, "steps": 2, "seed": 7, "regions": regions}
    return ImageRequest(**asked | fields)


def last(model: LatentDiffusion, wanted: ImageRequest) -> torch.Tensor:
    return next(event.x0 for event in model.stream(wanted) if isinstance(event, Step))


@pytest.mark.long
@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(0, 1)] * 4, st.floats(0.01, 1)).filter(lambda it: it[0] < it[2] and it[1] < it[3]),
        min_size=1,
        max_size=5,
    )
)
def test_at_every_place_the_shares_add_up_to_1(boxes: list[tuple[float, ...]]):
    found = shares([Region(prompt="x", box=box[:4], weight=box[4]) for box in boxes], 5, 7, CPU)
    assert (sum(found.regions, start=found.rest) - 1).abs().max() < 1e-5
    assert min(float(share.min()) for share in (found.rest, *found.regions)) >= 0


def test_a_box_covers_what_lies_in_it():
    found = shares([Region(prompt="x", box=(0.125, 0, 0.5, 1), weight=0.8)], 1, 4, CPU)
    assert found.regions[0].flatten().tolist() == pytest.approx([0.4, 0.8, 0, 0])
    assert found.rest.flatten().tolist() == pytest.approx([0.6, 0.2, 1, 1])


def test_a_mask_is_brought_to_the_latents():
    region = Region(prompt="x", mask=png([[255, 255, 0, 51]] * 2))
    assert shares([region], 1, 2, CPU).regions[0].flatten().tolist() == pytest.approx([1, 0.1], abs=0.01)
    assert shares([region], 2, 4, CPU).regions[0][0, 0, 0].tolist() == pytest.approx([1, 1, 0, 0.2])


def test_each_half_is_painted_as_its_prompt_alone_in_a_step(model: LatentDiffusion):
    """One answer of the network: where a region decides all, it is that prompt's guided answer."""
    halves = last(model, request(Region(prompt="a fox", box=LEFT), Region(prompt="the sea", box=RIGHT)))
    fox, sea = (last(model, request(prompt=prompt)) for prompt in ("a fox", "the sea"))
    assert torch.allclose(halves[..., :4], fox[..., :4], atol=1e-4)
    assert torch.allclose(halves[..., 4:], sea[..., 4:], atol=1e-4)
    assert not torch.allclose(fox, sea, atol=1e-2)


def test_the_same_words_everywhere_are_one_prompt(model: LatentDiffusion):
    plain = last(model, request())
    split = request(Region(prompt="a meadow", box=LEFT, weight=0.4), Region(prompt="a meadow", box=(0.2, 0.2, 0.9, 1)))
    assert torch.allclose(last(model, split), plain, atol=1e-3)


def test_without_guidance_nobody_is_asked_for_the_negative_prompt(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
):
    rows: list[int] = []
    ask = model.ask
    monkeypatch.setattr(model, "ask", lambda batch: rows.append(len(batch)) or ask(batch))
    both = Region(prompt="a fox", box=LEFT), Region(prompt="the sea", box=RIGHT)
    model.generate(request(*both, guidance_scale=1, steps=1))
    model.generate(request(*both, guidance_scale=7, steps=1))
    model.generate(request(both[0], guidance_scale=7, steps=1))
    assert rows == [2, 3, 3]  # the picture's own prompt has no share where the regions cover all


@pytest.mark.long
def test_it_goes_with_negative_prompts_plans_AND_and_a_second_pass(model: LatentDiffusion):
    region = Region(prompt="[a fox:a wolf:1] AND snow :0.5", box=LEFT, weight=0.9)
    plain = model.generate(request(region)).images[0]
    changes = [
        {"negative_prompt": "dark"},
        {"regions": (region.model_copy(update={"prompt": "[a fox:a bear:1] AND snow :0.5"}),)},
        {"regions": (region.model_copy(update={"prompt": "[a fox:a wolf:1] AND snow"}),)},
        {"regions": (region.model_copy(update={"weight": 0.5}),)},
        {"prompt_syntax": "a1111"},
        {"prompt": "a meadow AND rain"},
    ]
    for change in changes:
        assert model.generate(request(region, **change)).images[0] != plain, change
    assert model.generate(request(region, hires={"scale": 1.5})).images[0].size == (96, 96)


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        (Region(prompt="x"), r"regions\.0 needs either a box or a mask"),
        (Region(prompt="x", box=LEFT, mask=b"x"), r"regions\.0 needs either a box or a mask"),
        (Region(prompt="x", box=(0.5, 0, 0.5, 1)), r"regions\.0\.box is left, top, right, bottom"),
        (Region(prompt="x", mask=b"no picture"), r"regions\.0\.mask: "),
    ],
)
def test_what_has_no_place_is_refused(model: LatentDiffusion, region: Region, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        model.generate(request(region))


@pytest.mark.long
def test_masks_stand_in_the_record_by_their_hash(model: LatentDiffusion):
    (record,) = model.generate(request(Region(prompt="a fox", mask=png([[255, 0]])))).records
    assert list(record.inputs) == ["regions.0.mask"] and record.request.regions[0].mask is None
    assert type(record).from_json(record.to_json()) == record
