import json
import struct
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from marmo.train import tensorboard
from marmo.train.log import Log, save_sheet, sheet


def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, with the polynomial as the standard prints it (0x1EDC6F41), bits mirrored one by one."""

    def mirror(number: int, bits: int) -> int:
        return int(f"{number:0{bits}b}"[::-1], 2)

    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= mirror(byte, 8) << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x1EDC6F41 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return mirror(crc, 32) ^ 0xFFFFFFFF


def records(data: bytes) -> list[bytes]:
    """The records of an event file, their checksums checked."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        for text, checksum in ((data[:8], data[8:12]), (body, data[12 + length : 16 + length])):
            crc = crc32c(text)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)
            assert struct.unpack("<I", checksum)[0] == masked
        found.append(body)
        data = data[16 + length :]
    return found


def fields(data: bytes) -> list[tuple[int, object]]:
    """A protocol buffer as (field, value) in order."""
    found, stream = [], BytesIO(data)

    def varint() -> int:
        number = shift = 0
        while (byte := stream.read(1)[0]) & 128:
            number, shift = number | (byte & 127) << shift, shift + 7
        return number | byte << shift

    while stream.tell() < len(data):
        key = varint()
        match key & 7:
            case 0:
                value: object = varint()
            case 1:
                value = struct.unpack("<d", stream.read(8))[0]
            case 2:
                value = stream.read(varint())
            case 5:
                value = struct.unpack("<f", stream.read(4))[0]
            case other:
                raise AssertionError(other)
        found.append((key >> 3, value))
    return found


def scalars(data: bytes) -> list[tuple[int, str, float]]:
    """(step, name, value) of every number in an event file."""
    found = []
    for record in records(data)[1:]:
        event = dict(fields(record))
        for _, value in fields(event[5]):
            entry = dict(fields(value))
            found.append((event[2], entry[1].decode(), entry[2]))
    return found


def events(log: Log) -> bytes:
    (file,) = log.events.iterdir()
    assert "tfevents" in file.name
    return file.read_bytes()


def test_known_checksum():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every CRC catalogue
    records(tensorboard.record(b"123456789" * 50))


@pytest.fixture
def log(tmp_path) -> Log:
    log = Log(tmp_path)
    log.open(0)
    for images in (256, 512, 70_000_000_000):
        log.write(images, {"loss": 1 / images, "lr": 0.5})
    return log


def test_lines(log):
    rows = [json.loads(line) for line in log.lines.read_text().splitlines()]
    assert [(row["images"], row["loss"], row["lr"]) for row in rows] == [
        (images, 1 / images, 0.5) for images in (256, 512, 70_000_000_000)
    ]


def test_events(log):
    first = fields(records(events(log))[0])
    assert first[1] == (3, b"brain.Event:2")
    assert scalars(events(log)) == [
        (images, name, pytest.approx(value))
        for images in (256, 512, 70_000_000_000)
        for name, value in (("loss", 1 / images), ("lr", 0.5))
    ]


def test_resuming_cuts_both(log):
    log.open(512)
    assert [row["images"] for row in log.rows()] == [256, 512]
    assert {step for step, _, _ in scalars(events(log))} == {256, 512}


def test_a_torn_line_is_forgotten(log):
    with log.lines.open("ab") as stream:
        stream.write(b'{"images": 600, "lo')
    log.open(10**12)
    assert len(list(log.rows())) == 3 and log.lines.read_bytes().endswith(b"\n")


def test_tensorboard_reads_it(log):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loader.EventAccumulator(str(log.events))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (images, pytest.approx(1 / images)) for images in (256, 512, 70_000_000_000)
    ]


def test_sheet():
    pictures = torch.stack([torch.full((3, 5, 7), value) for value in (-1.0, 0.0, 1.0, 2.0, -2.0)])
    grid = np.asarray(sheet(pictures, columns=3))
    assert grid.shape == (10, 21, 3)
    assert [int(grid[2, column, 0]) for column in (3, 10, 17)] == [0, 128, 255]
    assert [int(grid[7, column, 0]) for column in (3, 10, 17)] == [255, 0, 0]


def test_a_sheet_on_disk(tmp_path):
    save_sheet(tmp_path / "new" / "a.png", torch.zeros(2, 3, 8, 8))
    assert Image.open(tmp_path / "new" / "a.png").size == (16, 8)
