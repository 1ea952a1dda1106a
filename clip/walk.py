"""Decoding the wanted frames of a packet list, and as few others as possible.

Both walks go forward only. decode_selected() is the cheap one: it needs trustworthy presentation
timestamps and an undamaged stream, and says so when it does not have them. decode_in_order()
decodes everything and counts what comes out, which works for any stream that decodes at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import av
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from clip.errors import DecodeTimeoutError
from clip.tensor import Image

VideoPacket: TypeAlias = "av.Packet[VideoStream]"

#: Makes the small image of a frame; called as frames come out, so that no full picture is kept.
Take: TypeAlias = Callable[[av.VideoFrame], Image]


@dataclass(slots=True)
class InOrder:
    """What decode_in_order() saw.

    Attributes:
        taken: the wanted frames' images by their place in the order of output.
        pts: the presentation timestamp of every frame that came out; None where it has none.
    """

    taken: dict[int, Image] = field(default_factory=dict)
    pts: list[int | None] = field(default_factory=list)


def check_deadline(deadline: float | None) -> None:
    """Raise DecodeTimeoutError once the monotonic clock has passed `deadline`."""
    if deadline is not None and time.monotonic() > deadline:
        raise DecodeTimeoutError("Decoding took too long: send a shorter or smaller video.")


def decode_selected(
    context: VideoCodecContext,
    packets: Sequence[VideoPacket],
    wanted: Collection[int],
    take: Take,
    deadline: float | None,
) -> dict[int, Image] | None:
    """Decode just the frames with the presentation timestamps in `wanted`.

    Non-reference frames that are not wanted are skipped inside the decoder; where a key frame lies
    between here and the next wanted frame, the walk jumps to it; after the last wanted frame it
    ends.

    Args:
        context: a decoder in its initial state; not to be used again.
        packets: of one stream, in decoding order, with distinct timestamps.
        wanted: timestamps, each that of a packet.
        take: called once with each wanted frame.
        deadline: on the monotonic clock; None is no limit.

    Returns:
        The images by timestamp; None if a wanted frame did not come out whole: what the stream
        really holds is then for decode_in_order() to find.
    """
    images: dict[int, Image] = {}
    landing: int | None = None  # the timestamp of the key frame of a jump, until it comes out

    def send(packet: VideoPacket | None) -> bool:
        nonlocal landing
        check_deadline(deadline)
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            return False
        for frame in frames:
            if frame.is_corrupt:
                return False
            if landing is not None and frame.pts is not None and frame.pts >= landing:
                # A container may call any frame a key frame, and some decoders start at any.
                if frame.pts > landing or not frame.key_frame:
                    return False
                landing = None
            if frame.pts is not None and frame.pts in wanted:
                images[frame.pts] = take(frame)
        return True

    position = 0
    for target, start in _targets(packets, wanted):
        if start > position:
            if position and not send(None):
                return None
            context.flush_buffers()
            position, landing = start, packets[start].pts
        for place in range(position, target + 1):
            packet = packets[place]
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            # After a failure before the target nothing more is worth a try. At the target it is:
            # the error may be about an earlier packet, and the frame still come out.
            if not send(packet) and place < target:
                return None
        position = target + 1
    send(None)
    return images if len(images) == len(wanted) else None


def _targets(packets: Sequence[VideoPacket], wanted: Collection[int]) -> list[tuple[int, int]]:
    """(place of a wanted packet, place of the key frame to start from), in decoding order.

    A leading picture follows its key frame in decoding order but comes before it on the screen and
    may refer to pictures before the key frame: it has to start from an earlier one. A packet that
    brings the decoder other parameters is not passed over either.
    """
    targets = []
    keys: list[tuple[int, int]] = []
    for place, packet in enumerate(packets):
        if packet.pts is None:
            continue
        if packet.is_keyframe:
            keys.append((place, packet.pts))
        if packet.pts in wanted or packet.has_sidedata("new_extradata"):
            start = next((key for key, pts in reversed(keys) if pts <= packet.pts), 0)
            targets.append((place, start))
    return targets


def decode_in_order(
    context: VideoCodecContext,
    packets: Sequence[VideoPacket],
    wanted: Collection[int],
    take: Take,
    deadline: float | None,
) -> InOrder:
    """Decode every packet and take the frames whose place in the order of output is in `wanted`.

    Packets that do not decode are passed over. `context` must be in its initial state and is not to
    be used again.
    """
    seen = InOrder()
    for packet in (*packets, None):
        check_deadline(deadline)
        try:
            frames = context.decode(packet)
        except av.FFmpegError:
            continue
        for frame in frames:
            place = len(seen.pts)
            if place in wanted:
                seen.taken[place] = take(frame)
            seen.pts.append(frame.pts)
    return seen
