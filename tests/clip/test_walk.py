"""The cheap walk of a stream that breaks: what is worth a try, and what is not."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace

import av
import numpy as np
import pytest

from clip.walk import decode_selected

PACKETS = [
    SimpleNamespace(pts=pts, is_keyframe=pts % 10 == 0, has_sidedata=lambda kind: False)
    for pts in range(30)
]


class Decoder:
    """Gives a frame for each packet; where it fails an error in place of that, or before it."""

    def __init__(
        self, failing: Collection[int], *, late: bool = False, false_keys: Collection[int] = ()
    ) -> None:
        self.skip_frame = "DEFAULT"
        self.sent: list[int | None] = []
        self._failing = failing
        self._late = late
        self._false_keys = false_keys
        self._owed: list[SimpleNamespace] = []

    def decode(self, packet: SimpleNamespace | None) -> list[SimpleNamespace]:
        self.sent.append(None if packet is None else packet.pts)
        frames, self._owed = self._owed, []
        if packet is not None:
            frame = SimpleNamespace(
                pts=packet.pts, is_corrupt=False, key_frame=packet.pts not in self._false_keys
            )
            if packet.pts in self._failing:
                if self._late:
                    self._owed = [frame]
                raise av.FFmpegError(1, "broken")
            frames.append(frame)
        return frames

    def flush_buffers(self) -> None:
        self._owed = []


def walk(decoder: Decoder, wanted: Collection[int]) -> dict[int, np.ndarray] | None:
    return decode_selected(decoder, PACKETS, wanted, lambda frame: np.array(frame.pts), None)


@pytest.mark.parametrize("wanted", [{5, 25}, {5, 8}])
def test_nothing_is_decoded_after_a_failure_before_a_wanted_frame(wanted: set[int]) -> None:
    decoder = Decoder(failing={2})
    assert walk(decoder, wanted) is None
    assert decoder.sent == [0, 1, 2]


def test_a_wanted_frame_that_comes_out_after_an_error_is_taken() -> None:
    decoder = Decoder(failing={5}, late=True)
    taken = walk(decoder, {5, 8})
    assert taken is not None
    assert {pts: int(image) for pts, image in taken.items()} == {5: 5, 8: 8}


def test_a_wanted_frame_that_never_comes_out_is_told() -> None:
    assert walk(Decoder(failing={5}), {5, 8}) is None


class MuteDecoder(Decoder):
    """Keeps the frame of packet 20 for itself."""

    def decode(self, packet: SimpleNamespace | None) -> list[SimpleNamespace]:
        frames = super().decode(packet)
        return [] if packet is not None and packet.pts == 20 else frames


@pytest.mark.parametrize(
    "decoder",
    [
        pytest.param(Decoder(failing=(), false_keys={20}), id="no-key-frame"),
        pytest.param(MuteDecoder(failing=()), id="does-not-come-out"),
    ],
)
def test_nothing_is_taken_after_a_jump_to_what_is_no_key_frame(decoder: Decoder) -> None:
    assert walk(Decoder(failing=()), {5, 25}) is not None
    assert walk(decoder, {5, 25}) is None
