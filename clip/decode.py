"""From a video file to the tensor of its sampled frames: read_clip() and sample_clip().

The demuxer runs once, ahead of the decoder, and the compressed packets stay in memory: the
presentation timestamps in them say which frames to take. Then `clip.walk` decodes as little as will
do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import BinaryIO, TypeAlias

import av
import av.container
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from clip.errors import DecodeError, EncryptedVideoError, TooLongError
from clip.sampling import clip_length, part_middles
from clip.sniff import AVI, SNIFF_BYTES, Container, sniff
from clip.source import check_pixels, open_video
from clip.spec import ClipSpec
from clip.tensor import Image, shown_size, to_rgb
from clip.walk import VideoPacket, check_deadline, decode_in_order, decode_selected

Source: TypeAlias = str | os.PathLike[str] | BinaryIO

_FALLBACK_RATE = Fraction(25)
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
        timeout_s: wall-clock seconds for one clip, checked between packets; None is no limit.
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
        with open_video(
            file, container, max_pixels=limits.max_pixels, max_streams=limits.max_streams
        ) as (opened, stream):
            packets = _read_packets(opened, stream, limits, deadline)
            images = _FrameImages(spec, limits.max_pixels)
            timeline, picks, taken = _decode(
                container,
                stream,
                packets,
                frames=spec.frames,
                limits=limits,
                image=images,
                deadline=deadline,
            )
            return SampledClip(
                frames=np.stack([taken[pick] for pick in picks]),
                info=ClipInfo(
                    container=container.name,
                    codec=stream.codec_context.codec.canonical_name,
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


def _read_packets(
    opened: av.container.InputContainer,
    stream: VideoStream,
    limits: Limits,
    deadline: float | None,
) -> list[VideoPacket]:
    """The stream's packets in decoding order; of a file that is cut off, those before the cut."""
    packets: list[VideoPacket] = []
    stream_bytes = 0
    demuxed = opened.demux(stream)
    while True:
        check_deadline(deadline)
        try:
            packet = next(demuxed)
        except (StopIteration, av.FFmpegError):
            return packets
        if not packet.size:  # the end, as PyAV tells a decoder
            continue
        if packet.has_sidedata("encryption_info"):
            raise EncryptedVideoError("The video is encrypted: send it without protection.")
        packets.append(packet)
        stream_bytes += packet.size
        if len(packets) > limits.max_frames:
            raise TooLongError(f"The video has more than {limits.max_frames} frames.")
        if stream_bytes > limits.max_stream_bytes:
            raise TooLongError(f"The video stream has more than {limits.max_stream_bytes} bytes.")


@dataclass(frozen=True, slots=True)
class _Timeline:
    """When the frames of a clip come on screen: strictly increasing times in units of `unit_s`."""

    times: Sequence[int]
    unit_s: Fraction

    @property
    def duration_s(self) -> float:
        """The clip's length; a single frame counts for nothing."""
        return clip_length(self.times) * float(self.unit_s)

    def seconds(self, index: int) -> float:
        """When frame `index` comes on screen, in seconds after the first."""
        return float((self.times[index] - self.times[0]) * self.unit_s)


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


def _decode(
    container: Container,
    stream: VideoStream,
    packets: Sequence[VideoPacket],
    *,
    frames: int,
    limits: Limits,
    image: _FrameImages,
    deadline: float | None,
) -> tuple[_Timeline, list[int], dict[int, Image]]:
    """(timeline, the `frames` places in it to take, the images by place)."""
    context = stream.codec_context
    # AVI stores no presentation times: what shows up as such is the order of decoding.
    shown = [] if container is AVI else _presentation_times(packets)
    unit_s = stream.time_base or 1 / _FALLBACK_RATE
    if shown and context.field_order in _WHOLE_FRAMES:
        timeline = _Timeline(shown, unit_s)
        _check_duration(timeline, limits)
        picks = part_middles(shown, frames)
        places = {shown[pick]: pick for pick in picks}
        by_time = decode_selected(context, packets, places, image, deadline)
        if by_time is not None:
            return timeline, picks, {places[time]: image for time, image in by_time.items()}

    # Here the number of frames is known only once they have all come out: take a guess along, and
    # go again where it was wrong.
    guess = part_middles(range(len(packets)), frames) if packets else []
    seen = decode_in_order(context, packets, set(guess), image, deadline)
    if not seen.pts:
        raise DecodeError("No frame of the video could be decoded: the file is damaged or cut off.")
    rate = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
    in_order = _Timeline(range(len(seen.pts)), 1 / rate)
    timeline = (_timeline_of(seen.pts, unit_s) if shown else None) or in_order
    _check_duration(timeline, limits)
    picks = part_middles(timeline.times, frames)
    if not seen.taken.keys() >= set(picks):
        seen = decode_in_order(context, packets, set(picks), image, deadline)
    return timeline, picks, seen.taken


def _presentation_times(packets: Sequence[VideoPacket]) -> list[int]:
    """The shown packets' timestamps in order; empty where one has none or two have the same."""
    times = {packet.pts for packet in packets}
    if None in times or len(times) < len(packets):
        return []
    # Packets marked "discard" lie outside an edit list: needed to decode others, never shown.
    hidden = {packet.pts for packet in packets if packet.is_discard}
    return sorted(time for time in times - hidden if time is not None)


def _timeline_of(times: Sequence[int | None], unit_s: Fraction) -> _Timeline | None:
    """The timeline of frames in their order of output, if their timestamps make one."""
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(a >= b for a, b in pairwise(known)):
        return None
    return _Timeline(known, unit_s)


def _check_duration(timeline: _Timeline, limits: Limits) -> None:
    if timeline.duration_s > limits.max_duration_s:
        raise TooLongError(
            f"The video lasts {timeline.duration_s:.0f} s; at most {limits.max_duration_s:.0f} s "
            "are accepted."
        )
