from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marmo.files.atomic import claim
from marmo.files.names import TOKENS, check_pattern, output_path, slug
from marmo.files.record import Record
from marmo.request import ImageRequest

NOW = datetime(2026, 11, 21, 9, 5, 7)
PIECES = st.sampled_from([f"{{{name}}}" for name in TOKENS] + ["/", "..", "~", "\\", "con", "C:", "{", ".", " ", "-"])
PATTERNS = st.lists(PIECES | st.text(max_size=4) | st.text(min_size=100, max_size=100), max_size=8).map("".join)
PROMPTS = st.text() | st.sampled_from(
    ["con", "../../etc/passwd", "/", "~root", "NUL.txt", "..", "狐" * 200, "🦊\ufe0f"]
)


def record(prompt: str = "a red fox", model: str | None = "models/v1.5.ckpt") -> Record:
    sizes = {"width": 512, "height": 768, "steps": 25, "sampler": "dpmpp_2m"}
    request = ImageRequest(prompt=prompt, model=model, seed=7, num_images=4, **sizes)
    versions = {"marmo": "0.1.0", "torch": "2.13.0", "dtype": "float32", "device": "cpu"}
    return Record(**versions, request=request, image=2, weights={"v1.5.ckpt": "6c" * 32}, sigmas=())


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{date}-{time}-{seed}", "2026-11-21-090507-9.png"),
        ("{date}/{index}-{prompt}", "2026-11-21/2-a-red-fox.png"),
        ("{model}/{sampler}/{width}x{height}-{steps}", "v1-5/dpmpp_2m/512x768-25.png"),
        ("v1.5 {seed}{seed}", "v1.5 99.png"),
        ("COM{index}", "_COM2.png"),
    ],
)
def test_golden(pattern, path):
    assert output_path(Path("out"), record(), NOW, pattern) == Path("out", *path.split("/"))


def test_the_default_tells_pictures_of_one_request_apart():
    assert output_path(Path("out"), record(), NOW, suffix="webp") == Path("out/2026-11-21-090507-9.webp")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A red fox, (masterpiece:1.2)", "A-red-fox-masterpiece-1-2"),
        ("一只红狐狸，雪地", "一只红狐狸-雪地"),
        ("हिन्दी में", "हिन्दी-में"),
        ("ﬁsh ½", "fish-1-2"),
        ("狐" * 30, "狐" * 20),
        ("🦊\ufe0f\u202e", "none"),
        ("../../x", "x"),
        (None, "none"),
        (0, "0"),
    ],
)
def test_slug(text, name):
    assert slug(text) == name


@pytest.mark.parametrize("token", ["{artist}", "{}", "{seed:04}", "{seed!r}", "{prompt.__class__}"])
def test_an_unknown_token_is_answered_with_the_known_ones(token):
    with pytest.raises(ValueError, match=r"does not exist; the tokens are \{seed\}, \{index\}"):
        check_pattern(f"a-{token}")


REFUSED = [
    "",
    "/a",
    "a//b",
    "a/",
    "..",
    "a/../b",
    ".",
    "~/a",
    "a/~b",
    "a\0",
    "a\nb",
    r"a\b",
    "C:a",
    "con",
    "Aux.b",
    "a ",
]


@pytest.mark.parametrize("pattern", [*REFUSED, "lpt¹/a", "a{", "{seed}}", "\udcff", "a?", "a."])
def test_what_is_no_path_below_the_folder(pattern):
    with pytest.raises(ValueError, match="not a path below the output folder"):
        output_path(Path("out"), record(), NOW, pattern)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(PATTERNS, PROMPTS, PROMPTS)
def test_no_pattern_and_no_prompt_leaves_the_folder(pattern, prompt, model):
    try:
        check_pattern(pattern)
    except ValueError:
        return
    path = output_path(Path("out"), record(prompt, model), NOW, pattern)
    parts = path.relative_to("out").parts
    assert len(parts) == pattern.count("/") + 1
    assert Path("out").resolve() in path.resolve().parents
    for part in parts:
        assert part.split(".")[0].rstrip().upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}
        assert part.strip(". ") and len(part.encode()) + len("-1000") <= 255


def test_the_longest_name_can_be_claimed_and_numbered(tmp_path):
    path = output_path(tmp_path, record("狐" * 100), NOW, "{prompt}" * 10 + "/" + "{prompt}" * 10, "webp")
    names: set[str] = set()
    for _ in range(3):
        with claim(path) as claimed:
            claimed.write_bytes(b"x")
        names.add(claimed.name)
    assert names == {other.name for other in path.parent.iterdir()} and len(names) == 3
