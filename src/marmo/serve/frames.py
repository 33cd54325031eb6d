"""Messages on a byte stream: plain data both ways, never code.

A frame is the length of a JSON text and the number of attachments (32 bits each), the length of every attachment (64
bits each), all big-endian, then the text and the attachments, end to end.  The text is `[name, fields]`; bytes in the
fields, such as pictures, are attachments, and stand in the text as `{"attachment": index}`.
"""

import json
import struct
from collections.abc import Mapping
from typing import IO, cast

from pydantic import TypeAdapter

HEAD = struct.Struct(">II")
MAX_TEXT = 64 << 20
MAX_ATTACHMENTS = 4096
MAX_ATTACHMENT = 1 << 32
"""More than a picture or a prompt ever takes: a longer one is a broken stream."""

KEY = "attachment"


class Vocabulary:
    """The messages of one direction: dataclasses whose fields pydantic can read back."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self._adapters: Mapping[str, TypeAdapter[object]] = {kind.__name__: TypeAdapter(kind) for kind in kinds}

    def pack(self, message: object) -> bytes:
        """One message as a frame."""
        attachments: list[bytes] = []

        def attach(value: object) -> object:
            if isinstance(value, bytes):
                attachments.append(value)
                return {KEY: len(attachments) - 1}
            assert isinstance(value, frozenset | set), f"{type(value)} has no place in a message"
            return sorted(cast(set[str], value))

        name = type(message).__name__
        fields = self._adapters[name].dump_python(message)
        text = json.dumps([name, fields], default=attach).encode()
        head = HEAD.pack(len(text), len(attachments))
        lengths = struct.pack(f">{len(attachments)}Q", *map(len, attachments))
        return b"".join([head, lengths, text, *attachments])

    def read(self, stream: IO[bytes]) -> object:
        """The next message; raises `EOFError` at the end of the stream, also amid a frame, and `ValueError` for a
        frame that cannot be one of ours."""
        length, count = HEAD.unpack(_exactly(stream, HEAD.size))
        if length > MAX_TEXT or count > MAX_ATTACHMENTS:
            raise ValueError(f"a frame with a text of {length} bytes and {count} attachments is none of ours")
        lengths = struct.unpack(f">{count}Q", _exactly(stream, 8 * count))
        if max(lengths, default=0) > MAX_ATTACHMENT:
            raise ValueError(f"a frame with an attachment of {max(lengths)} bytes is none of ours")
        text = _exactly(stream, length)
        return self._message(text, [_exactly(stream, size) for size in lengths])

    def _message(self, text: bytes, attachments: list[bytes]) -> object:
        def attached(found: dict[str, object]) -> object:
            index = found.get(KEY)
            if len(found) != 1 or not isinstance(index, int):
                return found
            if not 0 <= index < len(attachments):
                raise ValueError(f"a frame has no attachment {index}")
            return attachments[index]

        match json.loads(text, object_hook=attached):
            case [str(name), fields] if name in self._adapters:
                return self._adapters[name].validate_python(fields)
            case _:
                raise ValueError("a frame holds no message that is known here")


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """Raises `EOFError` where the stream has less."""
    parts: list[bytes] = []
    while size:
        part = stream.read(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
