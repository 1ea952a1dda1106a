"""Clips drawn by the tests: every frame shows its own number, to read off what was sampled."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

_COLUMNS, _ROWS = 6, 2
_DARK, _BRIGHT = 40, 215
_RED, _BLUE = (200, 30, 30), (30, 30, 200)


def draw_picture(number: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The top half spells `number` in twelve fields; below, red is left and blue is right."""
    picture = np.empty((height, width, 3), np.uint8)
    half, cell = height // 2, width // _COLUMNS
    picture[half:, : width // 2] = _RED
    picture[half:, width // 2 :] = _BLUE
    for bit in range(_COLUMNS * _ROWS):
        row, column = divmod(bit, _COLUMNS)
        top, bottom = row * half // _ROWS, (row + 1) * half // _ROWS
        right = width if column == _COLUMNS - 1 else (column + 1) * cell
        level = _BRIGHT if number >> bit & 1 else _DARK
        picture[top:bottom, column * cell : right] = level
    return picture


def read_numbers(tensor: npt.NDArray[np.uint8]) -> list[int]:
    """The numbers that the frames of a (frames, height, width, 3) tensor show."""
    height, width = tensor.shape[1:3]
    numbers = []
    for frame in tensor:
        number = 0
        for bit in range(_COLUMNS * _ROWS):
            row, column = divmod(bit, _COLUMNS)
            y = int((row + 0.5) * height / 2 / _ROWS)
            x = int((column + 0.5) * width / _COLUMNS)
            number |= int(frame[y, x].mean() > (_DARK + _BRIGHT) / 2) << bit
        numbers.append(number)
    return numbers


def area_average(
    picture: npt.NDArray[np.uint8], height: int, width: int
) -> npt.NDArray[np.float64]:
    """The plain definition of an area average, as two matrix products: the golden resize."""

    def weights(source: int, target: int) -> npt.NDArray[np.float64]:
        edges = np.arange(target + 1) * source / target
        cells = np.arange(source)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        return np.clip(overlap, 0, None) * target / source

    rows, columns = weights(picture.shape[0], height), weights(picture.shape[1], width)
    return np.einsum("yh,hwc,xw->yxc", rows, picture.astype(np.float64), columns, optimize=True)


@dataclass(frozen=True)
class Drawing:
    """How to write a drawn clip."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    frames: int = 50
    height: int = 120
    width: int = 160
    rate: int = 25
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    #: Presentation times in milliseconds; at `rate` if empty.
    times_ms: Sequence[int] = ()
    container_options: Mapping[str, str] = field(default_factory=dict)
    codec_tag: str = ""

    def numbers(self) -> Iterable[int]:
        """The numbers on the frames: never two neighbours alike, and none is zero."""
        return range(1, self.frames + 1)

    def write(self, path: Path) -> Path:
        """Encode the clip to `path` with its suffix and return that path."""
        path = path.with_suffix(self.suffix)
        try:
            self._encode(path)
        finally:
            # SVT-AV1, run by root, gives the whole process real-time priority; children inherit it.
            if hasattr(os, "SCHED_OTHER"):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return path

    def _encode(self, path: Path) -> None:
        with av.open(str(path), "w", container_options=dict(self.container_options)) as output:
            stream = output.add_stream(self.codec, rate=self.rate, options=dict(self.options))
            stream.height, stream.width, stream.pix_fmt = self.height, self.width, self.pix_fmt
            if self.codec_tag:
                stream.codec_context.codec_tag = self.codec_tag
            if self.times_ms:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index, number in enumerate(self.numbers()):
                picture = draw_picture(number, self.height, self.width)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                if self.times_ms:
                    frame.pts, frame.time_base = self.times_ms[index], Fraction(1, 1000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))

    def golden_tensor(
        self, indices: Sequence[int], height: int = 64, width: int = 64
    ) -> npt.NDArray[np.float64]:
        """What sampling frames `indices` gives, from the pictures alone: no codec, no clip/."""
        numbers = list(self.numbers())
        return np.stack(
            [
                area_average(draw_picture(numbers[i], self.height, self.width), height, width)
                for i in indices
            ]
        )


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write (a, b, c, d) of the display matrix into an MP4's only track header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # after the version-0 fields
    a, b, c, d = (value << 16 for value in matrix)
    for offset, value in ((0, a), (4, b), (12, c), (16, d)):
        data[start + offset : start + offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
