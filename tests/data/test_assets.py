"""The asset files are whole, say where they come from, and fit the drawings in them."""

import gzip
import json

import pytest

from marmo.data.assets.build import Icon, _pack, _short  # pyright: ignore[reportPrivateUsage]
from marmo.data.assets.corrections import read_corrections, read_false_synonyms
from marmo.data.assets.notice import notice, notice_path
from marmo.data.assets.sources import SOURCES
from marmo.data.corpus import STYLES, corpus, corpus_folder, drawings, manifest, shape_concepts
from marmo.data.drawing import measure, rasterise
from marmo.data.shapes import FILLS, SHAPES, svg


def test_the_corpus_is_whole() -> None:
    concepts, bodies = corpus().concepts, drawings()
    assert len(concepts) > 800
    for style in STYLES:
        assert list(bodies[style]) == [concept.id for concept in concepts]
    for concept in concepts:
        assert concept.en[0] and concept.zh[0] and concept.measure
        assert tuple(concept.looks) == STYLES


def test_no_two_concepts_share_a_name() -> None:
    everything = (*corpus().concepts, *shape_concepts())
    for language in ("en", "zh"):
        names = [name for concept in everything for name in getattr(concept, language)]
        assert len(names) == len(set(names))
    assert len({concept.id for concept in everything}) == len(everything)


def test_the_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in corpus_folder().iterdir()) < 6_000_000


def test_drawings_hold_no_address_and_no_script() -> None:
    for bodies in drawings().values():
        for body in bodies.values():
            assert "http" not in body and "<script" not in body and "<image" not in body


def test_packing_is_deterministic() -> None:
    data = {"a": [1, "é"]}
    assert _pack(data) == _pack(data) and json.loads(gzip.decompress(_pack(data))) == data
    assert _short('url(#svgIDa) id="svgIDb"') == 'url(#ia) id="ib"'
    assert Icon(body="x")["body"] == "x"


def test_the_notice_is_that_of_the_manifest() -> None:
    counts = {entry["package"]: entry["count"] for entry in manifest()}
    text = notice_path().read_text("utf-8")
    assert text == notice(counts)
    for source in SOURCES:
        assert f"{source.package} {source.version}" in text and source.copyright in text and source.licence in text
    assert [(entry["package"], entry["version"]) for entry in manifest()] == [(s.package, s.version) for s in SOURCES]


def test_corrections_can_be_read() -> None:
    corrections = read_corrections()
    assert corrections["flag in hole"] is not None and corrections["hole"] is None
    assert "伤心" in read_false_synonyms()


@pytest.mark.long
@pytest.mark.parametrize("id", ["fox", "pair-of-scissors", "rocket"])
def test_measures_are_those_of_the_drawings(id: str) -> None:
    look, shown = corpus()[id].looks["noto"], rasterise(drawings()["noto"][id], corpus()[id].looks["noto"].box, 100)
    again = measure(drawings()["noto"][id], 128)
    assert again.box == pytest.approx(look.box, abs=1)
    assert again.size == pytest.approx(look.size, abs=0.02)
    assert not shown[0].any() and not shown[-1].any() and not shown[:, 0, 3].any()  # the margin is free


def test_an_empty_drawing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        measure("", 128)


@pytest.mark.long
def test_shapes_are_centred_and_as_large_as_said() -> None:
    for shape in SHAPES.values():
        for fill in FILLS:
            seen = measure(svg(shape, fill), 100)
            left, top, side = seen.box
            assert left + side / 2 == pytest.approx(50, abs=1.5) and top + side / 2 == pytest.approx(50, abs=1.5)
            assert side == pytest.approx(100, abs=2.5)
