"""TensorBoard's event files, of which scalars need this little: no dependency writes them.

A file is a row of records: length (u64), its checksum, the bytes, their checksum, all little-endian; see
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h.  The bytes are an `Event`
in protocol buffers' encoding: 1 wall_time (double), 2 step (varint), 3 file_version (text), 5 summary, a list of
1 value = 1 tag (text), 2 simple_value (float).
"""

import struct
from collections.abc import Mapping

VERSION = "brain.Event:2"


def header(time: float) -> bytes:
    """The record that every file begins with."""
    return record(_double(1, time) + _text(3, VERSION.encode()))


def scalars(time: float, step: int, values: Mapping[str, float]) -> bytes:
    """One record with numbers by name."""
    entries = (_text(1, name.encode()) + _float(2, value) for name, value in values.items())
    summary = b"".join(_text(1, entry) for entry in entries)
    return record(_double(1, time) + _key(2, 0) + _varint(step) + _text(5, summary))


def record(data: bytes) -> bytes:
    """Bytes with their length and checksums around them."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _key(field: int, wire: int) -> bytes:
    return bytes([field << 3 | wire])


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _key(field, 5) + struct.pack("<f", value)


def _text(field: int, data: bytes) -> bytes:
    return _key(field, 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have the eighth bit set."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def _checksum(data: bytes) -> bytes:
    """CRC-32C, turned by 15 bits and moved, as record_writer.h masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, reflected
    return byte


_TABLE = [_row(byte) for byte in range(256)]
