"""Opening a video: the one place in the repository that has FFmpeg open one to read it.

A video comes from a stranger. What FFmpeg would do unasked is shut off here: it probes for
playlists and scripts (the demuxer is forced, others are not on the list), follows what a file names
(no protocol is allowed and the file is handed over as an object without a name), and decodes while
it probes (only the decoders of `CODECS`, and no picture above the pixel limit).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import av.container

# PyAV would import these with the first file it opens. A process that lets a file open nothing else
# (service.sandbox) cannot read a module by then.
import av.subtitles.codeccontext
import av.subtitles.stream
from av.stream import Disposition
from av.video.stream import VideoStream

from clip.errors import (
    DecodeError,
    NoVideoStreamError,
    TooManyPixelsError,
    TooManyStreamsError,
    UnsupportedCodecError,
)
from clip.sampletable import check_sample_counts
from clip.sniff import CONTAINERS, Container

#: Codec -> the decoders that may run for it, by FFmpeg's names.
CODECS = {
    "av1": ("libdav1d", "av1"),
    "h263": ("h263",),
    "h264": ("h264",),
    "hevc": ("hevc",),
    "mjpeg": ("mjpeg",),
    "mpeg1video": ("mpeg1video",),
    "mpeg2video": ("mpeg2video",),
    "mpeg4": ("mpeg4",),
    "msmpeg4v3": ("msmpeg4",),
    "vp8": ("vp8",),
    "vp9": ("vp9",),
}

_DEMUXERS = ",".join(sorted({container.demuxer for container in CONTAINERS}))
# FFmpeg's own bound, less what _coded_pixels() adds.
_ANY_PIXELS = 2**30
_DECODERS = ",".join(decoder for decoders in CODECS.values() for decoder in decoders)


class _NamelessFile:
    """A file's bytes and nothing else: FFmpeg sees no name that it could take a hint from."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        # A damaged file may point anywhere, beyond what the system can seek to: there the file
        # ends.
        if whence == os.SEEK_SET and not 0 <= offset <= self._size:
            return self._file.seek(0, os.SEEK_END)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def open_video(
    file: BinaryIO, container: Container, *, max_pixels: int, max_streams: int, max_frames: int
) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """Open `file` with the demuxer of `container` and pick its first moving picture.

    Yields:
        The open container and the video stream, whose decoder is set to one thread and
        `max_pixels`; no packet has been decoded by it yet.

    Raises:
        DecodeError: the container's structure is damaged.
        TooManyStreamsError, NoVideoStreamError, UnsupportedCodecError, TooManyPixelsError,
            TooLongError: as their names say, from what the container declares.
    """
    if container.demuxer == "mov":
        check_sample_counts(file, max_frames)
    with _open(file, container, decoders=_DECODERS, max_pixels=max_pixels) as opened:
        stream = _pick_stream(opened, max_streams=max_streams)
        context = stream.codec_context
        check_pixels(context.width, context.height, max_pixels)
        if not context.width:
            # Either the container does not say, or the limit has just stopped the probing decoder.
            check_pixels(*_declared_size(file, container, stream.index), max_pixels)
        # av.open()'s options do not reach this decoder; these do, before its first packet.
        context.options = {"max_pixels": str(_coded_pixels(max_pixels))}
        context.thread_count = 1
        # Opened now: libdav1d reads skip_frame, which the walk changes per packet, at opening only.
        try:
            context.open()
        except (av.FFmpegError, ValueError) as error:
            raise DecodeError("The video's codec parameters are damaged.") from error
        yield opened, stream


def _open(
    file: BinaryIO, container: Container, *, decoders: str, max_pixels: int
) -> av.container.InputContainer:
    try:
        return av.open(
            _NamelessFile(file),
            mode="r",
            format=container.demuxer,
            options={
                "protocol_whitelist": "none",
                "format_whitelist": _DEMUXERS,
                "codec_whitelist": decoders,
                "max_pixels": str(_coded_pixels(max_pixels)),
            },
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError) as error:
        raise DecodeError(
            "The file begins like a video but its structure is damaged or cut off."
        ) from error


def _declared_size(file: BinaryIO, container: Container, index: int) -> tuple[int, int]:
    """(width, height) of stream `index` by the container's word; no decoder runs."""
    position = file.tell()
    with _open(file, container, decoders="none", max_pixels=_ANY_PIXELS) as opened:
        sizes = {
            stream.index: (stream.codec_context.width, stream.codec_context.height)
            for stream in opened.streams.video
        }
    file.seek(position)
    return sizes.get(index, (0, 0))


def _pick_stream(opened: av.container.InputContainer, *, max_streams: int) -> VideoStream:
    if len(opened.streams) > max_streams:
        raise TooManyStreamsError(
            f"The file holds {len(opened.streams)} streams; at most {max_streams} are accepted."
        )
    cover_art = Disposition.attached_pic
    moving = [stream for stream in opened.streams.video if not stream.disposition & cover_art]
    if not moving:
        raise NoVideoStreamError("The file holds no video stream.")
    # A stream of a codec that FFmpeg knows but cannot decode here has no context.
    context = moving[0].codec_context
    codec = context.codec.canonical_name if context is not None else "unknown"
    if codec not in CODECS:
        raise UnsupportedCodecError(
            f"The video codec {codec} is not accepted: use one of {', '.join(sorted(CODECS))}."
        )
    return moving[0]


def _coded_pixels(max_pixels: int) -> int:
    """FFmpeg's limit is on the coded picture, which is up to one block larger on each side."""
    return max_pixels + max_pixels // 4 + 2**16


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise TooManyPixelsError for a picture above the limit."""
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"The picture is {width}x{height}; at most {max_pixels} pixels are accepted."
        )
