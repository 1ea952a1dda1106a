"""Data sets of small drawn clips, two classes that differ in brightness, with UCF names."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

LEVELS = {"Dark": 60, "Light": 190}


def write_plain_clip(path: Path, level: int, seed: int) -> None:
    """Six frames of grain around one grey level."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "30"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(6):
            picture = rng.integers(level - 30, level + 30, (64, 64, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))


def write_plain_dataset(folder: Path, *, groups: int, clips: int) -> Path:
    """Class folders with so many groups each, and so many clips a group."""
    seed = 0
    for label, level in LEVELS.items():
        (folder / label).mkdir()
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                seed += 1
                name = f"v_{label}_g{group:02}_c{clip:02}.mp4"
                write_plain_clip(folder / label / name, level, seed)
    return folder
