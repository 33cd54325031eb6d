"""Folders, tars and Arrow tables as sources."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from marmo.data.buckets import bucket_of, bucket_sizes, own_bucket
from marmo.data.defects import survey
from marmo.data.folder import Folder
from marmo.data.item import Items
from marmo.data.pictures import as_tensor, bucketed, open_items, open_pictures
from marmo.data.source import shuffled
from marmo.data.tags import Wording
from marmo.data.webdataset import Tars
from tests.data.planted import encoded


def picture(index: int, width: int = 40, height: int = 40) -> Image.Image:
    return Image.new("RGB", (width, height), (index * 20, 0, 0))


def content(items: Items) -> list[tuple[str, bytes | None]]:
    return [(items.name(index), items.item(index).caption) for index in range(len(items))]


class TestFolder:
    def test_captions_beside(self, tmp_path):
        for name in ("b.png", "a.PNG", "deep/c.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            picture(1).save(tmp_path / name)
            (tmp_path / name).with_suffix(".txt").write_text(f"this is {name}")
        (tmp_path / "notes.md").write_text("not a picture")
        assert content(Folder(tmp_path)) == [
            ("a.PNG", b"this is a.PNG"), ("b.png", b"this is b.png"), ("deep/c.png", b"this is deep/c.png"),
        ]  # fmt: skip

    def test_another_suffix(self, tmp_path):
        picture(1).save(tmp_path / "a.png")
        (tmp_path / "a.caption").write_text("kohya's")
        assert content(Folder(tmp_path, ".caption")) == [("a.png", b"kohya's")]
        assert content(Folder(tmp_path)) == [("a.png", None)]

    def test_metadata(self, tmp_path):
        (tmp_path / "train").mkdir()
        for name in ("a.png", "b.png", "unnamed.png"):
            picture(1).save(tmp_path / "train" / name)
        lines = [
            {"file_name": "b.png", "text": "second"}, {"file_name": "a.png", "caption": "first"},
            {"file_name": "gone.png", "text": "x"}, {"file_name": "../../secret.png", "text": "x"}, {"text": "x"},
            {"file_name": 3}, {"file_name": "a.png", "text": ["x"]}, "text",
        ]  # fmt: skip
        text = "\n".join([*map(json.dumps, lines), "{broken", "", '{"file_name": "b.png"}'])
        (tmp_path / "train" / "metadata.jsonl").write_text(text)
        folder = Folder(tmp_path)
        good, bad = [], {}
        for index in range(len(folder)):
            try:
                good.append((folder.name(index), folder.item(index).caption))
            except ValueError as error:
                bad[folder.name(index)] = str(error)
        assert good == [("train/b.png", b"second"), ("train/a.png", b"first"), ("train/b.png", b"")]
        assert "No such file" in bad.pop("train/gone.png")
        assert "lies outside the folder" in bad.pop("train/metadata.jsonl:4")
        assert {key.rpartition(":")[2] for key in bad} == {"5", "6", "7", "8", "9"}

    def test_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="holds no pictures"):
            Folder(tmp_path)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


MEMBERS = {
    "shard/000.jpg": encoded(picture(1), "JPEG"), "shard/000.txt": b"zero", "shard/000.json": b'{"caption": "not"}',
    "shard/001.png": encoded(picture(2), "PNG"), "shard/001.json": b'{"caption": "one", "width": 40}',
    "shard/002.webp": encoded(picture(3), "WEBP"), "shard/002.json": b"{broken",
    "shard/003.txt": b"no picture", "shard/v1.5/004.seg.png": b"no",
    "shard/v1.5/004.PNG": encoded(picture(4), "PNG"), "shard/v1.5/004.txt": b"four",
}  # fmt: skip


class TestTars:
    def test_entries(self, tmp_path):
        items = Tars([tar(tmp_path / "a.tar", MEMBERS)])
        assert [items.name(index) for index in range(len(items))] == [
            f"a.tar:shard/{key}" for key in ("000", "001", "002", "003", "v1.5/004")
        ]
        assert [items.item(index).caption for index in (0, 1, 2, 4)] == [b"zero", b"one", None, b"four"]
        assert items.item(4).picture == MEMBERS["shard/v1.5/004.PNG"]
        with pytest.raises(ValueError, match="none of its members ends in png, jpg"):
            items.item(3)

    def test_several(self, tmp_path):
        for name in ("b.tar", "a.tar"):
            tar(tmp_path / name, {"x.png": encoded(picture(1), "PNG"), "x.txt": name.encode()})
        assert content(open_items(tmp_path)) == [("a.tar:x", b"a.tar"), ("b.tar:x", b"b.tar")]

    @pytest.mark.parametrize("left", [0.2, 0.5, 0.9])
    def test_cut_off(self, tmp_path, left):
        members = {
            f"{n}.{kind}": data for n in range(8) for kind, data in (("txt", b"a"), ("png", encoded(picture(n), "PNG")))
        }
        path = tar(tmp_path / "a.tar", members)
        path.write_bytes(path.read_bytes()[: int(8 * 2048 * left) + 100])
        items = Tars([path])
        assert 1 <= len(items) <= 8
        assert open_pictures(path, seed=0, size=32)(0)[0].shape == (3, 32, 32)
        assert any(defect.skips for defect in survey(items).defects) or items.entries[-1].members.keys() == {
            "txt",
            "png",
        }

    def test_no_tar(self, tmp_path):
        (tmp_path / "a.tar").write_bytes(b"x" * 2000)
        items = Tars([tmp_path / "a.tar"])
        with pytest.raises(ValueError, match="cannot be read from here on"):
            items.item(0)
        with pytest.raises(ValueError, match="holds no entries"):
            Tars([tar(tmp_path / "empty.tar", {})])

    def test_webdataset_reads_the_same(self, tmp_path):
        library = pytest.importorskip("webdataset")
        path = tar(tmp_path / "a.tar", MEMBERS)
        theirs = [row["__key__"] for row in library.WebDataset(str(path), shardshuffle=False)]
        items = Tars([path])
        assert [items.name(index).partition(":")[2] for index in range(len(items))] == theirs


class TestArrow:
    def test_without_the_library(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "datasets", None)
        (tmp_path / "dataset_info.json").write_text("{}")
        with pytest.raises(ValueError, match="`pip install datasets`"):
            open_items(tmp_path)

    def test_rows(self, tmp_path):
        library = pytest.importorskip("datasets")
        rows = {"image": [picture(n) for n in range(3)], "text": ["zero", "一", None]}
        features = library.Features({"image": library.Image(), "text": library.Value("string")})
        library.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
        items = open_items(tmp_path / "set")
        assert content(items) == [("set:0", b"zero"), ("set:1", "一".encode()), ("set:2", None)]
        assert open_pictures(tmp_path / "set", seed=0, size=32)(0)[0].shape == (3, 32, 32)
        library.DatasetDict({"train": library.Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "d")
        with pytest.raises(ValueError, match="several splits: train; give the folder of one"):
            open_items(tmp_path / "d")
        library.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "no")
        with pytest.raises(ValueError, match="has the columns text; none of them is called image or"):
            open_items(tmp_path / "no")


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Twelve pictures, five of them tall, each in its own shade of red, and one that is broken."""
    for index in range(12):
        tall = index % 5 in (0, 1)
        picture(index, *((40, 80) if tall else (60, 60))).save(tmp_path / f"{index:02}.png")
        (tmp_path / f"{index:02}.txt").write_text(f"picture, number {index}, {'tall' if tall else 'square'}")
    (tmp_path / "broken.png").write_bytes(b"x")
    return tmp_path


def test_a_pass_has_every_picture(mixed):
    source = open_pictures(mixed, seed=0, size=32)
    passes = [[source(turn * 13 + place)[1] for place in range(13)] for turn in (0, 1)]
    assert len(set(passes[0])) == len(set(passes[1])) == 12 and passes[0] != passes[1]


def test_pictures_and_captions_belong_together(mixed):
    source = open_pictures(mixed, seed=5, size=32)
    for position in range(40):
        tensor, caption = source(position)
        assert round(float((tensor[0].mean() + 1) * 127.5)) == 20 * int(caption.split()[2].rstrip(","))


def test_pictures_without_captions_where_none_are_needed(mixed):
    """What cannot be seen is still passed over."""
    for index in range(6):
        (mixed / f"{index:02}.txt").unlink()
    wordless, told = (open_pictures(mixed, seed=0, size=32, needs_captions=needed) for needed in (False, True))
    reds = {round(float((wordless(place)[0][0].mean() + 1) * 127.5)) for place in range(13)}
    assert reds == {20 * index for index in range(12)}
    captions = [wordless(place)[1] for place in range(13)]
    assert "" in captions and sum(caption != "" for caption in set(captions)) == 6
    assert all(told(place)[1] for place in range(13))
    assert wordless.defects.keys() == {"broken.png"}


def test_the_same_source_twice(mixed):
    one, two = (open_pictures(mixed, seed=3, size=32, wording=Wording(shuffle=True, drop=0.2)) for _ in range(2))
    for position in reversed(range(30)):
        assert torch.equal(one(position)[0], two(position)[0]) and one(position)[1] == two(position)[1]


def test_buckets(mixed):
    items = open_items(mixed)
    sizes = bucket_sizes(64 * 64, step=16, smallest=32, largest=96)
    found = survey(items)
    source = bucketed(items, found, lambda size: bucket_of(size, sizes), batch_size=4, seed=0)
    shapes = set()
    for batch in range(24):
        pictures = [source(batch * 4 + place) for place in range(4)]
        (shape,) = {tuple(tensor.shape) for tensor, _ in pictures}
        shapes.add(shape)
        expected = bucket_of((40, 80) if "tall" in pictures[0][1] else (60, 60), sizes)
        assert shape == (3, expected[1], expected[0])
    assert len(shapes) == 2
    seen = [source(position)[1] for position in range(48)]  # 12 batches: each of the 12 pictures four times
    assert {seen.count(caption) for caption in seen} == {4} and len(set(seen)) == 12


def test_buckets_of_their_own(mixed):
    items = open_items(mixed)
    source = bucketed(items, survey(items), lambda size: own_bucket(size, 64 * 64, step=16), batch_size=4, seed=0)
    assert {tuple(source(position)[0].shape) for position in range(96)} == {(3, 80, 32), (3, 48, 48)}


def test_what_breaks_later_is_replaced_from_its_own_bucket(mixed):
    items = open_items(mixed)
    sizes = bucket_sizes(64 * 64, step=16, smallest=32, largest=96)
    source = bucketed(items, survey(items), lambda size: bucket_of(size, sizes), batch_size=4, seed=0)
    (mixed / "00.png").write_bytes(b"")
    for batch in range(12):
        assert len({source(batch * 4 + place)[0].shape for place in range(4)}) == 1
    assert source.defects["00.png"][0].kind == "empty"


def test_the_middle_is_taken():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    tensor = as_tensor(wide, (32, 32))
    assert torch.equal(tensor[:, 16, 16], torch.tensor([-1.0, -1.0, 1.0]))
    assert (tensor[2] > 0).float().mean() > 0.95


def test_pairs_in_memory():
    pairs = [(torch.zeros(3, 2, 2), str(number)) for number in range(7)]
    source = shuffled((pair for pair in pairs), seed=1)
    assert sorted(source(place)[1] for place in range(7)) == [str(number) for number in range(7)]


def test_no_collection(tmp_path):
    with pytest.raises(ValueError, match="is no collection"):
        open_items(tmp_path / "nothing")
