"""A small video of known colours, made here, to see whether this machine decodes as it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Final

import av
import numpy as np
import numpy.typing as npt

#: The specimen's parts in their order, RGB; each is on screen equally long.
COLOURS: Final[Sequence[tuple[int, int, int]]] = ((200, 30, 30), (30, 200, 30), (30, 30, 200))

_FRAMES_A_PART = 10
_HEIGHT, _WIDTH = 96, 128
_RATE = 10
#: Two conversions between RGB and YUV and a lossy codec, on pictures of one colour.
_TOLERANCE = 12


def write_specimen(file: BinaryIO) -> None:
    """Write the specimen, MPEG-4 in MP4 (FFmpeg always has that encoder), to a seekable file."""
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for colour in COLOURS:
            picture = np.full((_HEIGHT, _WIDTH, 3), colour, np.uint8)
            for _ in range(_FRAMES_A_PART):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))
    file.flush()
    file.seek(0)


def find_difference(frames: npt.NDArray[np.uint8]) -> str | None:
    """What is wrong with the sampled specimen, uint8 (frames, height, width, 3); None if nothing.

    Args:
        frames: as many as there are colours, or a multiple of it.
    """
    for colour, part in zip(COLOURS, np.split(frames, len(COLOURS)), strict=True):
        difference = int(np.abs(part.astype(np.int16) - np.array(colour, np.int16)).max())
        if difference > _TOLERANCE:
            return f"colour {colour} is {difference} grey levels off"
    return None
