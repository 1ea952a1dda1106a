"""The clips of the parts of a split that a network is measured on, and its answers for them.

The clips stay in the cache and are read a batch at a time: 13,000 of 64x64 would take 3 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from training.data.cache import StoredClips, decode_clips, refuse_changed
from training.data.index import index_clips
from training.learning.batches import OrderedBatches
from training.results.evaluate import Probabilities
from training.run import RunDirectory, default_cache

#: The parts of training.data.splits.PARTS that have figures.
MEASURED_PARTS = ("validation", "test")


def read_part(
    run: RunDirectory, part: str, *, data: Path, cache: Path | None = None
) -> StoredClips:
    """The clips of one part of a run's split, in the order of split.tsv.

    Args:
        run: has its config.json and split.tsv.
        part: "train", "validation" or "test".
        data: the folder that the run was trained on.
        cache: decoded clips; if None, cache/ beside the run.

    Raises:
        DataError: the data set lacks clips, they cannot be decoded, or other files have their
            names now.
        OSError: the cache cannot be written; it names the file.
    """
    config = run.read_json("config.json")
    index = index_clips(data, classes=config["classes"]).select(run.read_split(part, "path"))
    entries = decode_clips(index, run.read_clip_spec(), cache or default_cache(run.path))
    refuse_changed(index.clips, entries, run.read_split(part, "sha256"), folder=data)
    return StoredClips(entries, index.clips)


def answer(
    model: keras.Model, clips: Sequence[npt.NDArray[np.uint8]], *, batch_size: int
) -> Probabilities:
    """What a network says of clips: float32 (N, classes)."""
    batches = OrderedBatches(clips, batch_size=batch_size)
    return np.asarray(model.predict(batches, verbose=0), np.float32)
