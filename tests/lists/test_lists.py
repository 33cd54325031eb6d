"""Styles, presets and files of prompts, and what becomes of them in a request."""

import json
from pathlib import Path

import pytest

from marmo.lists.choices import Wildcards
from marmo.lists.presets import over, read_preset
from marmo.lists.prompts_file import read_prompts
from marmo.lists.requests import Shelf, fields_of, open_shelf, settled, with_styles
from marmo.lists.styles import read_styles, styled
from marmo.request import ImageRequest
from marmo.request_parts import Template, Variation

CSV = (
    '\ufeffname,prompt,negative_prompt\r\nink,"ink drawing of {prompt}, black",photo\r\nplain,"best, sharp",\r\n,x,\r\n'
)
TOML = '[ink]\nprompt = "other"\n["水墨"]\nprompt = "水墨画，{prompt}"\nnegative_prompt = "{prompt}, 照片"\n'
NONE = Shelf(Wildcards(), {}, ())


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """As it lies beside the settings."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "wildcards").mkdir()
    (tmp_path / "wildcards" / "animal.txt").write_text("fox\ncat\nowl\n")
    (tmp_path / "styles.csv").write_text(CSV, encoding="utf-8", newline="")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "presets" / "fast.toml").write_text('steps = 4\nsampler = "euler"\n[guidance]\nrescale = 0.5\n')
    (tmp_path / "presets" / "small.json").write_text('{"width": 64, "height": 64, "guidance": {"low_sigma": 0.1}}')
    (tmp_path / "settings.toml").write_text('[prompts]\nstyles = ["mine.toml"]\n')
    monkeypatch.setenv("MARMO_SETTINGS", str(tmp_path / "settings.toml"))
    return open_shelf()


def test_styles(shelf: Shelf):
    request = ImageRequest(prompt="a fox", negative_prompt="dark")
    ink = styled(request, ["ink"], shelf.styles)
    assert (ink.prompt, ink.negative_prompt) == ("ink drawing of a fox, black", "dark, photo")
    both = styled(request, ["plain", "水墨"], shelf.styles)
    assert (both.prompt, both.negative_prompt) == ("水墨画，a fox, best, sharp", "dark, 照片")
    assert styled(ImageRequest(prompt="a fox"), ["plain"], shelf.styles).negative_prompt is None
    with pytest.raises(ValueError, match="there is no style 'inc'; did you mean 'ink'"):
        styled(request, ["inc"], shelf.styles)
    whole = with_styles(request, ["ink"], shelf)
    assert whole.template == Template(prompt="a fox", negative_prompt="dark", styles=("ink",))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"ink,photo\n", "its first line does not name the columns"),
        ("a.csv", b"\xff\xfe\x00", "holds no styles"),
        ("a.toml", b"[ink]\nprmpt = 'x'\n", "ink.prmpt: Extra inputs"),
        ("a.toml", b"ink = 3\n", "ink: "),
        ("a.toml", b"[", "holds no styles"),
        ("none.csv", None, "No such file"),
    ],
)
def test_broken_styles(tmp_path: Path, name: str, content: bytes | None, reason: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_styles([tmp_path / name])


def test_a1111_s_first_columns(tmp_path: Path):
    (tmp_path / "styles.csv").write_text("name,text\nold,oil paint\n")
    assert read_styles([tmp_path / "styles.csv"])["old"].prompt == "oil paint"


def test_presets(shelf: Shelf):
    fields = fields_of({"prompt": "a fox", "steps": 9}, ["fast", "small"], shelf)
    assert fields == {
        "prompt": "a fox", "steps": 9, "sampler": "euler", "width": 64, "height": 64,
        "guidance": {"rescale": 0.5, "low_sigma": 0.1},
    }  # fmt: skip
    assert ImageRequest.model_validate(fields).guidance.rescale == 0.5
    for name, reason in (("slow", "there are fast, small"), ("../presets/fast", "there is no preset")):
        with pytest.raises(ValueError, match=reason):
            read_preset(name, shelf.presets)


def test_broken_presets(tmp_path: Path):
    for name, text in (("a.json", "[]"), ("b.json", "{"), ("c.toml", "x"), ("d.json", "[" * 9000)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="is no preset"):
            read_preset(str(tmp_path / name), ())
    with pytest.raises(ValueError, match="No such file"):
        read_preset(str(tmp_path / "none.json"), ())


def test_one_over_another():
    assert over({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}, "e": 5}) == {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}


def test_a_file_of_prompts(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text(
        "\ufeffa red fox, (snow:1.2)\n\n# nothing\n"
        '--prompt "a cat" --steps 30 --guidance.rescale 0.7 --cfg_scale 5 --sampler_name "DPM++ 2M Karras"\n'
        '--negative-prompt "dark" --subseed 3 --subseed_strength 0.2\n',
        encoding="utf-8",
    )
    lines = read_prompts(file)
    assert lines[0] == {"prompt": "a red fox, (snow:1.2)"}
    request = ImageRequest.model_validate(lines[1])
    assert (request.prompt, request.steps, request.guidance.rescale) == ("a cat", 30, 0.7)
    assert (request.guidance_scale, request.sampler, request.schedule) == (5, "dpmpp_2m", "karras")
    assert lines[2] == {"negative_prompt": "dark", "variation": {"seed": "3", "strength": "0.2"}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no prompts"),
        ("a\n--steps", "line 2: '--steps' has no value"),
        ("--prompt a fox --steps 3", "line 1: a flag begins with --, and 'fox' does not"),
        ('--prompt "a', "line 1: No closing quotation"),
        ("--guidance 3 --guidance.rescale 1", "line 1: guidance is set twice"),
    ],
)
def test_broken_files_of_prompts(tmp_path: Path, text: str, reason: str):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_prompts(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        read_prompts(tmp_path / "p.txt")


# Choices in a request


def test_every_picture_has_its_own_choices(shelf: Shelf):
    request = ImageRequest(prompt="a {red|blue|green|black} __animal__", num_images=6, seed=10)
    whole = list(settled(request, shelf.wildcards))
    assert [each.seed for each in whole] == list(range(10, 16)) and {each.num_images for each in whole} == {1}
    assert len({each.prompt for each in whole}) > 1
    assert {each.template for each in whole} == {Template(prompt=request.prompt)}
    (alone,) = settled(request.model_copy(update={"num_images": 1, "seed": 13}), shelf.wildcards)
    assert alone == whole[3]
    assert json.loads(alone.model_dump_json())["template"]["prompt"] == request.prompt


def test_nothing_open_is_nothing_changed():
    for request in (
        ImageRequest(prompt="a [b|c] {fox}", num_images=3),
        ImageRequest(prompt="{a|b}", prompt_syntax="plain"),
    ):
        assert list(settled(request, Wildcards())) == [request]


def test_a_seed_is_drawn_where_none_was_given():
    first, second = (next(settled(ImageRequest(prompt="{a|b}"), Wildcards())) for _ in range(2))
    assert first.seed != second.seed and first.seed is not None


def test_the_negative_prompt_has_choices_too():
    whole = [
        next(settled(ImageRequest(prompt="x", negative_prompt="{a|b}", seed=seed), Wildcards())) for seed in range(9)
    ]
    assert {each.negative_prompt for each in whole} == {"a", "b"} and {each.prompt for each in whole} == {"x"}


def test_pictures_of_one_seed():
    varied = ImageRequest(prompt="{a|b|c|d}", num_images=5, seed=1, variation=Variation(seed=7, strength=0.1))
    whole = list(settled(varied, Wildcards()))
    assert {each.seed for each in whole} == {1} and [each.variation.seed for each in whole] == [7, 8, 9, 10, 11]
    (batch,) = settled(ImageRequest(prompt="{a|b}", num_images=3, seed=1, noise_source="comfy"), Wildcards())
    assert batch.num_images == 3
