"""The container, from a file's first bytes: never from its name or from what a client says it is.

What is not one of the few binary containers below is refused before FFmpeg sees it: FFmpeg's own
probing would take a text file for a playlist and go and open what the playlist names.
"""

from __future__ import annotations

from dataclasses import dataclass

from clip.errors import EmptyFileError, UnknownContainerError

#: How many bytes `sniff` wants to see; fewer if the file is shorter.
SNIFF_BYTES = 1024

_EBML = b"\x1a\x45\xdf\xa3"
_MPEG_PS_PACK = b"\x00\x00\x01\xba"
_TS_SYNC = 0x47
#: Plain transport streams, and those of camcorders and discs with a 4-byte time code before each
#: packet.
_TS_LAYOUTS = ((188, 0), (192, 4))
#: The boxes that may come first in an MP4 or QuickTime file.
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})


@dataclass(frozen=True, slots=True)
class Container:
    """A container by the name people use, and the FFmpeg demuxer that reads it."""

    name: str
    demuxer: str


MP4 = Container("mp4", "mov")
QUICKTIME = Container("mov", "mov")
MATROSKA = Container("matroska", "matroska")
WEBM = Container("webm", "matroska")
AVI = Container("avi", "avi")
MPEG_TS = Container("mpegts", "mpegts")
MPEG_PS = Container("mpeg", "mpeg")
CONTAINERS = (MP4, QUICKTIME, MATROSKA, WEBM, AVI, MPEG_TS, MPEG_PS)


def sniff(head: bytes) -> Container:
    """Name the container of a file from its first `SNIFF_BYTES` bytes.

    Raises:
        EmptyFileError: there are no bytes.
        UnknownContainerError: it is none of `CONTAINERS`.
    """
    if not head:
        raise EmptyFileError("The file is empty.")
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return AVI
    if head[:4] == _EBML:
        # The document type is a short string inside the EBML header.
        return WEBM if b"webm" in head[:64] else MATROSKA
    if head[4:8] in _FIRST_BOXES:
        return QUICKTIME if _is_quicktime(head) else MP4
    if head[:4] == _MPEG_PS_PACK:
        return MPEG_PS
    for size, offset in _TS_LAYOUTS:
        marks = head[offset::size]
        if len(marks) >= 3 and set(marks) == {_TS_SYNC}:
            return MPEG_TS
    raise UnknownContainerError(
        "The file is not a video in a known container: send MP4, MOV, WebM, Matroska, AVI, "
        "MPEG-TS or MPEG-PS."
    )


def _is_quicktime(head: bytes) -> bool:
    """QuickTime is the MP4 family's ancestor: its brand says so, or it has no brand at all."""
    return head[8:12] == b"qt  " if head[4:8] == b"ftyp" else True
