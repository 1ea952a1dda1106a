"""How many samples an MP4 or QuickTime file claims to hold, read before FFmpeg believes it.

FFmpeg makes an index entry for every sample while it opens a file. Two tables give the number of
samples without listing them, so a file of 1,500 bytes can claim a hundred million of them and cost
gigabytes of memory before any limit is looked at. An edit list can have every sample entered once
an edit.

NOT covered: a sound track may still claim as many samples as the file has bytes, and repeat them by
its edit list; a table inside a sample description is not seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from clip.errors import DecodeError, TooLongError

#: Boxes that FFmpeg walks into and takes a table from, wherever they are.
_CONTAINERS = frozenset(
    b"moov trak mdia minf stbl moof traf mvex edts dinf tref udta ilst wave sinf schi".split()
)
_MAX_DEPTH = 8
#: A live recording may put each frame, and each frame of sound beside it, into a fragment of its
#: own. A fragment has seven boxes or more, and to 15 pictures a second come 47 frames of AAC.
_BOXES_A_FRAME = 30
_OTHER_BOXES = 10_000
#: FFmpeg makes a million entries in about a second.
_MAX_EDITED_SAMPLES = 10_000_000
_EDIT_BYTES = 12


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    start: int  # of the payload
    end: int


def check_sample_counts(file: BinaryIO, max_frames: int) -> None:
    """Refuse an MP4 or QuickTime file that claims more samples than it can hold or may have.

    Args:
        file: seekable; left anywhere.
        max_frames: the most samples of a video track.

    Raises:
        TooLongError: a video track claims more than `max_frames`.
        DecodeError: a table claims more samples than the file has bytes, an edit list repeats a
            video's samples beyond reason, or the header is compressed, nested too deeply or in too
            many parts.
    """
    size = file.seek(0, 2)
    fragments = samples = edits = 0
    is_video = False
    for count, box in enumerate(_walk(file, _Box(b"", 0, size), 0)):
        if count > max_frames * _BOXES_A_FRAME + _OTHER_BOXES:
            raise DecodeError("The file's structure has too many parts.")
        if box.kind == b"cmov":
            raise DecodeError("The file's header is compressed: save it as MP4.")
        if box.kind == b"trak":
            is_video, samples, edits = False, 0, 0
        elif box.kind == b"hdlr":
            is_video = _read(file, box, 8, ">4s") == b"vide" or is_video
        elif box.kind == b"elst":
            fitting = max(box.end - box.start - 8, 0) // _EDIT_BYTES
            edits = max(edits, min(int(_read(file, box, 4, ">I")), fitting))
        elif box.kind in {b"stsz", b"stz2"}:
            samples = max(samples, int(_read(file, box, 8, ">I")))
            _check(samples, size, max_frames if is_video else size)
        elif box.kind == b"trun":
            fragments += int(_read(file, box, 4, ">I"))
            _check(fragments, size, size)
        if is_video and samples * edits > _MAX_EDITED_SAMPLES:
            raise DecodeError("The file's edit list is too long: save the video anew.")


def _check(count: int, size: int, most: int) -> None:
    if count > size:
        raise DecodeError("The file claims more samples than it has bytes: it is damaged.")
    if count > most:
        raise TooLongError(f"The video has more than {most} frames.")


def _read(file: BinaryIO, box: _Box, offset: int, form: str) -> int | bytes:
    """One value of the box's payload; 0 where the box is too short to hold it."""
    length = struct.calcsize(form)
    if box.start + offset + length > box.end:
        return 0
    file.seek(box.start + offset)
    data = file.read(length)
    value: int | bytes = struct.unpack(form, data)[0] if len(data) == length else 0
    return value


def _walk(file: BinaryIO, parent: _Box, depth: int) -> Iterator[_Box]:
    """All boxes inside `parent`, each before its children."""
    if depth > _MAX_DEPTH:
        raise DecodeError("The file's structure is nested too deeply.")
    start = parent.start
    while start + 8 <= parent.end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        payload = start + 8
        if size == 1:
            long_size = file.read(8)
            if len(long_size) < 8:
                return
            (size,) = struct.unpack(">Q", long_size)
            payload += 8
        elif size == 0:
            size = parent.end - start
        if size < payload - start:
            return
        box = _Box(kind, payload, min(start + size, parent.end))
        yield box
        if kind in _CONTAINERS:
            yield from _walk(file, box, depth + 1)
        start += size
