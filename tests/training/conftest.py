"""A tiny data set of drawn clips, and a run trained on it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from pathlib import Path

import av
import numpy as np
import pytest

from tests.training.finished_run import make_run
from training.run import RunDirectory

LEVELS = {"Dark": 60, "Light": 190}
GROUPS = 6
CLIPS_A_GROUP = 4


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


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Two classes that differ in brightness: six groups of four clips each, with UCF names."""
    folder = tmp_path_factory.mktemp("dataset")
    seed = 0
    for label, level in LEVELS.items():
        (folder / label).mkdir()
        for group in range(1, GROUPS + 1):
            for clip in range(1, CLIPS_A_GROUP + 1):
                seed += 1
                name = f"v_{label}_g{group:02}_c{clip:02}.mp4"
                write_plain_clip(folder / label / name, level, seed)
    return folder


@pytest.fixture(scope="session")
def untrained_run(dataset, tmp_path_factory) -> RunDirectory:
    """A finished run under the group split, its network untrained; not to be changed."""
    return make_run(dataset, tmp_path_factory.mktemp("untrained") / "run")
