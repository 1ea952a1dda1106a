"""Damaged copies of a video, each from a seed, so that what one does can be seen again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from tests.drawing import Drawing

#: The clips that are damaged, by their container.
ORIGINALS: Mapping[str, Drawing] = {
    "mp4": Drawing(".mp4", "libx264", frames=30, options={"bf": "2", "g": "12"}),
    "avi": Drawing(".avi", "mpeg4", frames=30, options={"bf": "1", "g": "12"}),
    "mkv": Drawing(
        ".mkv",
        "libx264",
        frames=30,
        options={"bf": "2", "g": "12"},
        container_options={"fflags": "+bitexact"},  # else it has random identifiers
    ),
    "ts": Drawing(".ts", "mpeg2video", frames=30, options={"bf": "1", "g": "12"}),
}
#: As far from both ends as most containers keep their tables.
_MARGIN_BYTES = 2048
_MOST_BITS = 256


def draw_originals(folder: Path) -> dict[str, bytes]:
    """ORIGINALS as bytes; `folder` is where they are written first."""
    return {name: drawing.write(folder / name).read_bytes() for name, drawing in ORIGINALS.items()}


def mutate(content: bytes, seed: int) -> bytes:
    """The mutant of that number: some bits turned over, in one of four also a cut or a shift.

    Every second one is damaged near its ends only, where the structure is: in the whole file nearly
    every bit is one of a picture.
    """
    rng = random.Random(seed)
    data = bytearray(content)
    ends = [*range(min(_MARGIN_BYTES, len(data))), *range(-min(_MARGIN_BYTES, len(data)), 0)]
    places = ends if seed % 2 else range(len(data))
    for _ in range(int(_MOST_BITS ** rng.random())):
        data[rng.choice(places)] ^= 1 << rng.randrange(8)
    match rng.randrange(12):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            start = rng.randrange(len(data))
            del data[start : start + rng.randrange(1, 512)]
        case 2:
            start = rng.randrange(len(data))
            data[start:start] = data[start : start + rng.randrange(1, 512)]
    return bytes(data)
