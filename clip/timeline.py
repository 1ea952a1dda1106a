"""When the frames of a video come on screen: what its timestamps are worth, and what stands in.

Two sources tell: the packets, before anything is decoded, and the frames that come out. Both have
to give the same timeline, or the same file would be sampled in two ways. Where the packets cannot
be trusted to say what will come out, timeline_of_packets() says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from av.video.stream import VideoStream

from clip.errors import DecodeError
from clip.sampling import clip_length
from clip.sniff import AVI, MPEG_PS, MPEG_TS, Container
from clip.walk import VideoPacket

_FALLBACK_RATE = Fraction(25)
#: A transport or programme stream whose clock leaps by more was joined from several, or its
#: recorder was restarted: the clock says nothing about how long the frame before stayed. FFmpeg's
#: own program draws the line there too (-dts_delta_threshold).
_LEAP_S = 10
_MAY_LEAP = (MPEG_TS, MPEG_PS)
#: In the first byte of a VP8 frame (RFC 6386, 9.1).
_VP8_SHOWN = 0x10


@dataclass(frozen=True, slots=True)
class Timeline:
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


def timeline_of_packets(
    packets: Sequence[VideoPacket], container: Container, stream: VideoStream
) -> Timeline | None:
    """The timeline of the frames that `packets` will give; None where only decoding can tell.

    That is where a packet has no timestamp or that of another, where the frames do not come out in
    the order of their timestamps, and where a picture is shown before the first key frame, for it
    refers to others that are not there. Not for AVI: what shows up as presentation times there is
    the order of decoding.
    """
    pts = [packet.pts for packet in packets if packet.pts is not None]
    if stream.time_base is None or len(set(pts)) < len(packets):
        return None
    codec = stream.codec_context.codec.canonical_name
    shown: list[int] = []
    keys: list[int] = []
    latest: int | None = None
    for packet, time in zip(packets, pts, strict=True):
        if packet.is_keyframe:
            # What comes before a key frame is shown before it, unless recordings were joined.
            if latest is not None and time < latest:
                return None
            keys.append(time)
        if _is_shown(packet, codec):
            shown.append(time)
        latest = time if latest is None else max(latest, time)
    shown.sort()
    if not shown or not keys or shown[0] < keys[0] or _leaps(shown, container, stream.time_base):
        return None
    return Timeline(shown, stream.time_base)


def timeline_of_frames(
    pts: Sequence[int | None], container: Container, stream: VideoStream
) -> Timeline:
    """The timeline of all frames in their order of output.

    By their timestamps where these increase and are presentation times, else at the stream's rate.
    """
    if not pts:
        raise DecodeError("No frame of the video could be decoded: the file is damaged or cut off.")
    known = [time for time in pts if time is not None]
    if (
        container is not AVI
        and stream.time_base is not None
        and len(known) == len(pts)
        and all(a < b for a, b in pairwise(known))
        and not _leaps(known, container, stream.time_base)
    ):
        return Timeline(known, stream.time_base)
    rate = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
    return Timeline(range(len(pts)), 1 / rate)


def _is_shown(packet: VideoPacket, codec: str) -> bool:
    """Whether the packet's picture is for the screen and not only for others to refer to."""
    if packet.is_discard:  # it lies outside an edit list
        return False
    return codec != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOWN)


def _leaps(times: Sequence[int], container: Container, unit_s: Fraction) -> bool:
    most = int(_LEAP_S / unit_s)
    return container in _MAY_LEAP and any(b - a > most for a, b in pairwise(times))
