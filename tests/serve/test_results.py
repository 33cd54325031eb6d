"""Files by hash: whole or not there, never taken while they are about to be named, and small ones beside them."""

import hashlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from marmo.serve.disk import LocalDisk
from marmo.serve.job import Unknown
from marmo.serve.results import Results
from tests.serve.faulty_disk import At, Moment, WatchedDisk, input_output_error


def results_in(folder: Path, disk: LocalDisk | None = None) -> Results:
    results = Results(folder, disk or LocalDisk())
    results.open()
    return results


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "files").rglob("*") if path.is_file()]


def png(side: int = 8) -> bytes:
    stream = BytesIO()
    Image.linear_gradient("L").resize((side, side)).save(stream, "PNG")
    return stream.getvalue()


def test_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    results = results_in(tmp_path)
    with results.holding([b"fox", b"owl", b"fox"]) as hashes:
        pass
    assert hashes == [hashlib.sha256(data).hexdigest() for data in (b"fox", b"owl", b"fox")]
    assert len(files(tmp_path)) == 2 and results.read(hashes[0]) == b"fox"


def test_damage_is_noticed(tmp_path: Path) -> None:
    results = results_in(tmp_path)
    with results.holding([b"fox"]) as (sha256,):
        pass
    files(tmp_path)[0].write_bytes(b"fix")
    with pytest.raises(Unknown, match="damaged"):
        results.read(sha256)
    with pytest.raises(Unknown, match="gone"):
        results.read("0" * 64)


def test_a_sweep_takes_orphans_and_leaves_what_is_held(tmp_path: Path) -> None:
    Results(tmp_path, LocalDisk()).open()
    old = results_in(tmp_path)
    with old.holding([b"orphan", b"kept"]) as (orphan, kept):
        pass
    (tmp_path / "files" / kept[:2] / ".0000abcd").write_bytes(b"half")
    results = results_in(tmp_path)
    with results.holding([b"held"]) as (held,):
        for folder in results.folders():
            results.sweep(folder, lambda names: [name for name in names if name != kept])
        assert {path.name for path in files(tmp_path)} == {kept, held}
    with pytest.raises(Unknown):
        results.read(orphan)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_error_at_any_operation_leaves_no_half_file(tmp_path: Path, moment: Moment) -> None:
    number, name = 0, ""
    results_in(tmp_path)
    while name is not None:
        fault, data = At(number, moment, input_output_error), f"{number}".encode() * 1000
        results = Results(tmp_path, WatchedDisk(fault))
        try:
            with results.holding([data]) as (sha256,):
                assert results.read(sha256) == data
        except OSError:
            pass
        for path in files(tmp_path):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        number, name = number + 1, fault.name
    assert number > 5


def test_thumbnails_are_small_and_made_once(tmp_path: Path) -> None:
    results = results_in(tmp_path)
    with results.holding([png(640)]) as (sha256,):
        pass
    small = results.thumbnail(sha256)
    assert Image.open(BytesIO(small)).size == (320, 320) and results.thumbnail(sha256) == small
    results.remove([sha256])
    assert not files(tmp_path) and not list((tmp_path / "thumbnails").rglob("*.webp"))
