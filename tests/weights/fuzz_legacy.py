"""Mutated legacy files, read in this process under an audit hook: `python -m tests.weights.fuzz_legacy COUNT SEED`.

Prints JSON: how many files were read and refused, the events that the hook saw while they were read, and whether the
canary of the hostile files exists.  Anything but a plan or a `ValueError` ends it with a traceback.
"""

import io
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from marmo.weights.legacy import parse_plan
from marmo.weights.legacy_plan import make_plan
from marmo.weights.torch_containers import File, open_container
from tests.weights.legacy_files import FLOATS, GOOD, HOSTILE, RUNS_CODE, streamed, tensor, text, zipped

OPCODES = b"(.0123FIJKLMNPQRSTUVX]abcdeghijlopqrstu})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x93\x94\x95"


Packed = tuple[bytes, dict[str, bytes]]
"""A pickle and its storages."""


def saved(is_zip: bool) -> bytes:
    """A file of torch's own."""
    state = {"state_dict": {"a": torch.ones(2, 3).T, "b": torch.nn.Parameter(torch.ones(2))}, "step": 3, "l": [1, (2,)]}
    torch.save(state, stream := io.BytesIO(), _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def wholes() -> list[bytes]:
    """Files that are mutated as they are, half of them good ones."""
    hostile = [data for data in HOSTILE.values() if len(data) < 5000]
    return [saved(True), saved(False), zipped(GOOD), streamed(GOOD)] * (len(hostile) // 4) + hostile


def pickles() -> list[Packed]:
    """What is mutated before it is packed, so that the machine sees it and not only the container; half good ones."""
    with zipfile.ZipFile(io.BytesIO(saved(True))) as file:
        theirs = file.read("archive/data.pkl"), {key: file.read(f"archive/data/{key}") for key in "01"}
    nested = b"\x80\x02}(" + text("state_dict") + b"}(" + text("a") + tensor() + text("l") + b"](K\1K\2euu."
    ours = {"0": FLOATS}
    hostile = [(pickle, ours) for pickle in RUNS_CODE.values()]
    return [theirs, (GOOD, ours), (nested, ours)] * (len(hostile) // 3) + hostile


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to three changes: a byte, a bit, an opcode; a piece written over another; seldom one of another length."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        place, other, size = dice.randrange(len(out) + 1), dice.randrange(len(out) + 1), dice.randint(1, 16)
        match dice.randrange(8):
            case 0 | 1:
                out[place : place + 1] = bytes([dice.randrange(256)])
            case 2 | 3:
                out[place : place + 1] = bytes([dice.choice(OPCODES)])
            case 4:
                out[place : place + 1] = bytes(byte ^ 1 << dice.randrange(8) for byte in out[place : place + 1])
            case 5:
                out[other : other + size] = out[place : place + size]
            case 6:
                out[other:other] = out[place : place + size]
            case _:
                del out[place : place + dice.choice((1, size, len(out)))]
    return bytes(out)


def files(count: int, seed: int) -> Iterator[bytes]:
    """The hostile files as they are, then `count` mutated ones."""
    dice = random.Random(seed)
    whole, inner = wholes(), pickles()
    yield from HOSTILE.values()
    for index in range(count):
        if index % 3:
            pickle, storages = dice.choice(inner)
            yield dice.choice((zipped, streamed))(mutated(pickle, dice), storages)
        else:
            yield mutated(dice.choice(whole), dice)


def read(data: bytes) -> bool:
    """As child and parent do, but in this process; whether it is a file of tensors."""
    try:
        plan = make_plan(open_container(File(io.BytesIO(data), len(data))))
        places = parse_plan(json.dumps(plan._asdict()).encode(), len(data)).places
    except ValueError as error:
        assert str(error), "a refusal is a sentence"
        return False
    for place in places.values():
        assert place.begin + place.num_elements * place.info.dtype.itemsize <= len(data)
    return True


def main(count: int, seed: int) -> None:
    events: list[str] = []
    reading = False

    def note(event: str, _: object) -> None:
        if reading:
            events.append(event)

    sys.addaudithook(note)
    outcomes = {True: 0, False: 0}
    for data in files(count, seed):
        reading = True
        outcome = read(data)
        reading = False
        outcomes[outcome] += 1
    report = {"read": outcomes[True], "refused": outcomes[False], "events": sorted(set(events))}
    print(json.dumps(report | {"canary": Path("canary").exists()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
