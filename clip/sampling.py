"""Which frames of a clip to take: pure arithmetic on presentation timestamps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

#: From this many units between two frames on, a deviation of one unit counts as rounding.
LEAST_UNITS_A_STEP = 8


def part_middles(timestamps: Sequence[int], frames: int) -> list[int]:
    """Index of the frame on screen at the middle of each of `frames` equal parts of the clip.

    The clip lasts from its first timestamp until one mean gap after its last: a container's word
    for how long the last frame stays is too often missing or wrong. Timestamps within one unit of a
    constant rate are taken for that rate, index floor((2 i + 1) n / (2 frames)) of n: WebM rounds
    to milliseconds, and the same clip as MP4 should give the same frames. With fewer timestamps
    than `frames` indices repeat. The arithmetic is exact, so every machine takes the same frames.

    Args:
        timestamps: strictly increasing, in any unit; at least one.
        frames: how many to take; at least one.

    Returns:
        `frames` indices into `timestamps`, never decreasing.

    Raises:
        ValueError: no timestamps, or `frames` below one.
    """
    if not timestamps or frames < 1:
        raise ValueError("sampling wants at least one timestamp and one frame")
    count = len(timestamps)
    if count == 1:
        return [0] * frames
    first = timestamps[0]
    if _constant_rate(timestamps):
        return [(2 * part + 1) * count // (2 * frames) for part in range(frames)]
    # The clip's length is span * count / (count - 1), kept as a fraction.
    span = (timestamps[-1] - first) * count
    parts = 2 * frames * (count - 1)
    return [
        bisect_right(timestamps, first + (2 * part + 1) * span // parts) - 1
        for part in range(frames)
    ]


def _constant_rate(timestamps: Sequence[int]) -> bool:
    """Whether every timestamp is within one unit of equal steps from the first to the last.

    Only where a unit is small against a step: where it is a whole frame, it is no rounding.
    """
    first, last, steps = timestamps[0], timestamps[-1], len(timestamps) - 1
    if last - first < LEAST_UNITS_A_STEP * steps:
        return False
    return all(
        abs((timestamp - first) * steps - index * (last - first)) <= steps
        for index, timestamp in enumerate(timestamps)
    )


def clip_length(timestamps: Sequence[int]) -> float:
    """The clip's length by the same rule, in the timestamps' unit; 0 for a single timestamp."""
    count = len(timestamps)
    if count < 2:
        return 0.0
    return (timestamps[-1] - timestamps[0]) * count / (count - 1)
