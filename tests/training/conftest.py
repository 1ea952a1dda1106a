"""A tiny data set of drawn clips, and a run trained on it."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from pathlib import Path

import pytest

from tests.training.finished_run import make_run
from tests.training.plain_clips import write_plain_dataset
from training.run import RunDirectory

GROUPS = 6
CLIPS_A_GROUP = 4


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Two classes that differ in brightness: six groups of four clips each, with UCF names."""
    return write_plain_dataset(
        tmp_path_factory.mktemp("dataset"), groups=GROUPS, clips=CLIPS_A_GROUP
    )


@pytest.fixture(scope="session")
def untrained_run(dataset, tmp_path_factory) -> RunDirectory:
    """A finished run under the group split, its network untrained; not to be changed."""
    return make_run(dataset, tmp_path_factory.mktemp("untrained") / "run")
