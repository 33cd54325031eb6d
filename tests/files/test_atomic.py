import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from marmo.files.atomic import atomic_write, claim


def test_written_whole(tmp_path):
    path = tmp_path / "fox.png"
    path.write_bytes(b"old")
    with atomic_write(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_everything_as_it_was(tmp_path, error, old):
    path = tmp_path / "fox.png"
    if old:
        path.write_bytes(old)
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write(b"half")
        raise error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_mode_follows_the_umask(tmp_path):
    with atomic_write(tmp_path / "a") as stream:
        stream.write(b"a")
    (tmp_path / "b").write_bytes(b"b")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_long_name_needs_no_longer_temporary_one(tmp_path):
    with atomic_write(tmp_path / ("x" * 255)) as stream:
        stream.write(b"a")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x" * 255, b"a")]


def test_claims_are_numbered(tmp_path):
    names: list[str] = []
    for _ in range(3):
        with claim(tmp_path / "a" / "fox.v1.png") as path:
            path.write_bytes(b"x")
        names.append(path.name)
    assert names == ["fox.v1.png", "fox.v1-2.png", "fox.v1-3.png"]


def test_a_claim_that_is_not_used_goes_away(tmp_path):
    with claim(tmp_path / "fox.png"):
        assert (tmp_path / "fox.png").exists()
    with pytest.raises(KeyboardInterrupt), claim(tmp_path / "fox.png"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_claim_keeps_what_was_written_before_a_failure(tmp_path):
    with pytest.raises(RuntimeError), claim(tmp_path / "fox.png") as path:
        path.write_bytes(b"x")
        raise RuntimeError
    assert path.read_bytes() == b"x"


def test_no_two_claims_get_the_same_name(tmp_path):
    def save(number: int) -> None:
        with claim(tmp_path / "fox.png") as path, atomic_write(path) as stream:
            stream.write(str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(40)))
    assert sorted(int(path.read_bytes()) for path in tmp_path.iterdir()) == list(range(40))
