"""Archives made by the tests: ZIP, and RAR whose members are stored, not compressed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

_STORED, _UNIX, _RAR_29 = 0x30, 3, 29
_MAIN, _FILE, _END = 0x73, 0x74, 0x7B


def write_zip(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_rar(
    path: Path, members: Mapping[str, bytes], *, main_flags: int = 0, method: int = _STORED
) -> Path:
    """Write RAR 3 blocks: CRC, type, flags, size, then what the type has."""
    blocks = [b"Rar!\x1a\x07\x00", _block(_MAIN, main_flags, bytes(6))]
    for name, content in members.items():
        encoded = name.encode()
        blocks += [
            _block(
                _FILE,
                0x8000,  # content follows
                struct.pack(
                    "<LLBLLBBHL",
                    len(content),
                    len(content),
                    _UNIX,
                    zlib.crc32(content),
                    0x50000000,  # a DOS time
                    _RAR_29,
                    method,
                    len(encoded),
                    0o100644,
                )
                + encoded,
            ),
            content,
        ]
    path.write_bytes(b"".join([*blocks, _block(_END, 0x4000, b"")]))
    return path


def _block(kind: int, flags: int, rest: bytes) -> bytes:
    head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head
