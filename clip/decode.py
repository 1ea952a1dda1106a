"""From a video file to the tensor of its sampled frames: read_clip() and sample_clip().

The demuxer runs once, ahead of the decoder, and the compressed packets stay in memory: the
presentation timestamps in them say which frames to take. Then `clip.walk` decodes as little as will
do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import av
import av.container
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from clip.errors import DecodeError, EncryptedVideoError, TooLongError
from clip.sampling import part_middles
from clip.sniff import AVI, SNIFF_BYTES, Container, sniff
from clip.source import check_pixels, open_video
from clip.spec import ClipSpec
from clip.tensor import Image, shown_size, to_rgb
from clip.timeline import Timeline, timeline_of_frames, timeline_of_packets
from clip.walk import VideoPacket, check_deadline, decode_in_order, decode_selected

Source: TypeAlias = str | os.PathLike[str] | BinaryIO

#: FFmpeg's AVFieldOrder: unknown and progressive. Any other stream may have a packet for each
#: field.
_WHOLE_FRAMES = (0, 1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a video may cost. A file beyond a limit raises the LimitError of that limit.

    Attributes:
        max_pixels: width x height of the picture, as declared and of every decoded frame.
        max_frames: frames (packets) in the video stream.
        max_duration_s: length of the video in seconds.
        max_stream_bytes: compressed bytes of the video stream, which are held in memory.
        max_streams: streams of any kind in the container.
        timeout_s: wall-clock seconds for one clip, checked between packets but not while the
            container is opened; None is no limit.
    """

    max_pixels: int = 4096 * 2304
    max_frames: int = 36_000
    max_duration_s: float = 1_200.0
    max_stream_bytes: int = 512 * 1024 * 1024
    max_streams: int = 32
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What was found in a video and which frames of it were taken.

    Attributes:
        container, codec: by their usual names, for example "mp4" and "h264".
        width, height: of the picture as it is shown, after rotation, in pixels.
        duration_s: length in seconds, by the sampler's rule.
        frames_found: frames that the video has; of a damaged one, those that could be decoded.
        timestamps_s: when the sampled frames come on screen, in seconds after the first frame.
    """

    container: str
    codec: str
    width: int
    height: int
    duration_s: float
    frames_found: int
    timestamps_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SampledClip:
    """A clip's tensor, uint8 (frames, height, width, 3) RGB, and where it came from."""

    frames: npt.NDArray[np.uint8]
    info: ClipInfo


_PAPER_SPEC = ClipSpec()
_DEFAULT_LIMITS = Limits()


def read_clip(
    source: Source, spec: ClipSpec = _PAPER_SPEC, limits: Limits = _DEFAULT_LIMITS
) -> npt.NDArray[np.uint8]:
    """Sample a video as `spec` says.

    Args:
        source: a path, or a seekable binary file object, which stays open.
        spec: which frames, which size.
        limits: what the video may cost.

    Returns:
        uint8 RGB tensor (frames, height, width, 3).

    Raises:
        ClipError: the video cannot or must not be decoded; see clip.errors.
        OSError: the file cannot be read.
    """
    return sample_clip(source, spec, limits).frames


def sample_clip(
    source: Source, spec: ClipSpec = _PAPER_SPEC, limits: Limits = _DEFAULT_LIMITS
) -> SampledClip:
    """Sample a video as read_clip() does and tell what was found."""
    deadline = None if limits.timeout_s is None else time.monotonic() + limits.timeout_s
    with _opened(source) as file:
        file.seek(0)
        container = sniff(file.read(SNIFF_BYTES))
        video = _Video(file, container, limits, deadline)
        images = _FrameImages(spec, limits.max_pixels)
        # AVI stores no presentation times: what shows up as such is the order of decoding.
        sampled = None if container is AVI else _decode_selected(video, spec.frames, images)
        timeline, picks, taken = sampled or _decode_in_order(video, spec.frames, images)
    return SampledClip(
        frames=np.stack([taken[pick] for pick in picks]),
        info=ClipInfo(
            container=container.name,
            codec=video.codec,
            width=images.width,
            height=images.height,
            duration_s=timeline.duration_s,
            frames_found=len(timeline.times),
            timestamps_s=tuple(timeline.seconds(pick) for pick in picks),
        ),
    )


def _opened(source: Source) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, str | os.PathLike):
        return open(source, "rb")
    return nullcontext(source)


@dataclass(slots=True)
class _Video:
    """A file to be decoded, if need be more than once: every pass opens it anew.

    A decoder that is only flushed keeps the parameter sets which it met in the stream, and with
    them the next pass would decode other pictures.
    """

    file: BinaryIO
    container: Container
    limits: Limits
    deadline: float | None
    codec: str = ""

    @contextmanager
    def opened(self) -> Iterator[tuple[VideoStream, list[VideoPacket]]]:
        """The stream, its decoder in its initial state, and all its packets."""
        with open_video(
            self.file,
            self.container,
            max_pixels=self.limits.max_pixels,
            max_streams=self.limits.max_streams,
            max_frames=self.limits.max_frames,
        ) as (opened, stream):
            self.codec = stream.codec_context.codec.canonical_name
            yield stream, self._read_packets(opened, stream)

    def _read_packets(
        self, opened: av.container.InputContainer, stream: VideoStream
    ) -> list[VideoPacket]:
        """The packets in decoding order; of a file that is cut off, those before the cut."""
        packets: list[VideoPacket] = []
        limits, seen, stream_bytes = self.limits, 0, 0
        demuxed = opened.demux(stream)
        while True:
            check_deadline(self.deadline)
            try:
                packet = next(demuxed)
            # IndexError: PyAV's, after the last packet, of a stream that began after the first.
            except (StopIteration, av.FFmpegError, IndexError):
                return packets
            seen += 1
            stream_bytes += packet.size
            if seen > limits.max_frames + 1:  # the last is PyAV's own, empty
                raise TooLongError(f"The video has more than {limits.max_frames} frames.")
            if stream_bytes > limits.max_stream_bytes:
                raise TooLongError(
                    f"The video stream has more than {limits.max_stream_bytes} bytes."
                )
            if packet.has_sidedata("encryption_info"):
                raise EncryptedVideoError("The video is encrypted: send it without protection.")
            if packet.size:
                packets.append(packet)


class _FrameImages:
    """Makes the images of frames as they are decoded and notes how large the shown picture is."""

    def __init__(self, spec: ClipSpec, max_pixels: int) -> None:
        self._spec = spec
        self._max_pixels = max_pixels
        self.width = self.height = 0

    def __call__(self, frame: av.VideoFrame) -> Image:
        # The header's size was checked; a stream may change it at any key frame.
        check_pixels(frame.width, frame.height, self._max_pixels)
        self.width, self.height = shown_size(frame)
        return to_rgb(frame, self._spec.height, self._spec.width)


_Sampled: TypeAlias = tuple[Timeline, list[int], dict[int, Image]]


def _decode_selected(video: _Video, frames: int, images: _FrameImages) -> _Sampled | None:
    """(timeline, the `frames` places in it to take, the images by place), the cheap way.

    None where the stream is not fit for it or turns out to be damaged.
    """
    with video.opened() as (stream, packets):
        context = stream.codec_context
        if context.field_order not in _WHOLE_FRAMES:
            return None
        timeline = timeline_of_packets(packets, video.container, stream)
        if timeline is None:
            return None
        _check_duration(timeline, video.limits)
        picks = part_middles(timeline.times, frames)
        places = {timeline.times[pick]: pick for pick in picks}
        by_time = decode_selected(context, packets, places, images, video.deadline)
    if by_time is None:
        return None
    return timeline, picks, {places[time]: image for time, image in by_time.items()}


def _decode_in_order(video: _Video, frames: int, images: _FrameImages) -> _Sampled:
    """The same, by decoding everything.

    How many frames there are is known only once they have all come out: the first pass takes a
    guess along, the second is for the rare clip where that was wrong.
    """
    wanted: set[int] = set()
    for _ in range(2):
        with video.opened() as (stream, packets):
            if not wanted and packets:
                wanted = set(part_middles(range(len(packets)), frames))
            seen = decode_in_order(stream.codec_context, packets, wanted, images, video.deadline)
            timeline = timeline_of_frames(seen.pts, video.container, stream)
        _check_duration(timeline, video.limits)
        picks = part_middles(timeline.times, frames)
        if seen.taken.keys() >= set(picks):
            return timeline, picks, seen.taken
        wanted = set(picks)
    raise DecodeError("The video does not decode to the same frames twice: it is damaged.")


def _check_duration(timeline: Timeline, limits: Limits) -> None:
    if timeline.duration_s > limits.max_duration_s:
        raise TooLongError(
            f"The video lasts {timeline.duration_s:.0f} s; at most {limits.max_duration_s:.0f} s "
            "are accepted."
        )
