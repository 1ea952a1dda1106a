"""Files that no muxer writes: fields of good files overwritten, boxes put in and taken out."""

from __future__ import annotations

import struct

#: Where fields lie, in bytes after their box's, chunk's or element's name.
AVIH_TOTAL_FRAMES = 24
STRH_TYPE, STRH_SCALE, STRH_RATE, STRH_LENGTH = 8, 28, 32, 40
STRF_WIDTH, STRF_HEIGHT = 12, 16
MDHD_TIMESCALE, MDHD_DURATION = 16, 20
MVHD_TIMESCALE, MVHD_DURATION = 16, 20
TKHD_DURATION = 24

_EBML_TIMESTAMP_SCALE = b"\x2a\xd7\xb1\x83"
_EBML_DURATION = b"\x44\x89\x88"
_EBML_DEFAULT_DURATION = b"\x23\xe3\x83\x84"
_EBML_SIZE = b"\xb0\x82%b\xba\x82%b"


def overwrite(content: bytes, name: bytes, offset: int, form: str, value: float | bytes) -> bytes:
    """Replace the field that lies `offset` bytes after the beginning of the first `name`."""
    data = bytearray(content)
    struct.pack_into(form, data, data.index(name) + offset, value)
    return bytes(data)


def replace_once(content: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes that are there exactly once."""
    assert content.count(old) == 1
    return content.replace(old, new)


def set_timestamp_scale(content: bytes, nanoseconds: int) -> bytes:
    """Give a Matroska file another length of its time unit."""
    return overwrite(
        content, _EBML_TIMESTAMP_SCALE, len(_EBML_TIMESTAMP_SCALE), "3s", nanoseconds.to_bytes(3)
    )


def set_duration(content: bytes, units: float) -> bytes:
    """Give a Matroska file another total length."""
    return overwrite(content, _EBML_DURATION, len(_EBML_DURATION), ">d", units)


def set_default_duration(content: bytes, nanoseconds: int) -> bytes:
    """Give a Matroska file's track another length of its frames."""
    name = _EBML_DEFAULT_DURATION
    return overwrite(content, name, len(name), ">I", nanoseconds)


def _element(name: bytes, payload: bytes) -> bytes:
    return name + (len(payload) | 1 << 56).to_bytes(8) + payload


def add_attachments(content: bytes, count: int, attached: bytes) -> bytes:
    """Put playlists into a Matroska file, in front of its first pictures."""
    files = b"".join(
        _element(
            b"\x61\xa7",
            _element(b"\x46\x6e", b"%d.m3u8" % number)
            + _element(b"\x46\x60", b"application/x-mpegurl")
            + _element(b"\x46\x5c", attached)
            + _element(b"\x46\xae", (number + 1).to_bytes(4)),
        )
        for number in range(count)
    )
    data = bytearray(content)
    segment = data.index(b"\x18\x53\x80\x67") + 4
    assert data[segment] == 1
    data[segment : segment + 8] = b"\x01" + b"\xff" * 7  # as long as the file
    first = data.index(b"\x1f\x43\xb6\x75")
    data[first:first] = _element(b"\x19\x41\xa4\x69", files)
    return bytes(data)


def set_matroska_size(content: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes:
    """Have a Matroska file's header tell another (width, height)."""
    before, after = (
        _EBML_SIZE % (width.to_bytes(2), height.to_bytes(2)) for width, height in (old, new)
    )
    return replace_once(content, before, after)


def set_jpeg_size(content: bytes, width: int, height: int) -> bytes:
    """Have every JPEG picture in a file tell that it is so large."""
    data = bytearray(content)
    start = data.find(b"\xff\xc0\x00\x11\x08")
    assert start >= 0
    while start >= 0:
        struct.pack_into(">HH", data, start + 5, height, width)
        start = data.find(b"\xff\xc0\x00\x11\x08", start + 1)
    return bytes(data)


def box(kind: bytes, payload: bytes) -> bytes:
    """An MP4 box."""
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def replace_table(content: bytes, kind: bytes, payload: bytes) -> bytes:
    """Give the first box of that kind, inside moov/trak/mdia/minf/stbl, another payload."""
    data = bytearray(content)
    start = data.index(kind) - 4
    (size,) = struct.unpack_from(">I", data, start)
    new = box(kind, payload)
    data[start : start + size] = new
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(parent) - 4
        (old,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">I", data, place, old + len(new) - size)
    return bytes(data)


def empty_media(content: bytes) -> bytes:
    """Overwrite all pictures of an MP4 with zeros; its tables stay as they are."""
    start = content.index(b"mdat")
    (size,) = struct.unpack_from(">I", content, start - 4)
    end = start - 4 + size
    return content[: start + 4] + bytes(end - start - 4) + content[end:]
