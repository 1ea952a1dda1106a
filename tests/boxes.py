"""Boxes of MP4 and QuickTime files, found and replaced by the tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_TABLES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def find_box(data: bytes | bytearray, kind: bytes) -> tuple[int, int]:
    """(start, end) of the first box of that kind, its header included."""
    start = data.index(kind) - 4
    return start, start + int(struct.unpack_from(">I", data, start)[0])


def replace_box(
    data: bytearray, kind: bytes, payload: bytes, parents: Sequence[bytes] = _TABLES
) -> None:
    """Give the only box of that kind, inside `parents`, another payload."""
    start, end = find_box(data, kind)
    data[start:end] = struct.pack(">I4s", 8 + len(payload), kind) + payload
    for parent in parents:
        place, parent_end = find_box(data, parent)
        grown = parent_end - place + 8 + len(payload) - (end - start)
        struct.pack_into(">I", data, place, grown)
