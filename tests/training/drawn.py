"""A training of seconds: clips of two frames of 4x4 pixels, which are darker or lighter."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import numpy as np

from training.learning.augment import Augmentation
from training.learning.batches import ClipBatches
from training.learning.loop import Examples
from training.options import FitConfig

SEED = 3

_CONFIG = FitConfig(
    data="drawn",
    dataset="drawn",
    groups=None,
    classes=("dark", "light"),
    model="lrcn",
    clip_spec={},
    skip_bad=False,
    split="random",
    split_file=None,
    seed=SEED,
    epochs=8,
    batch_size=4,
    learning_rate=1e-2,
    augmentation={},
    patience=3,
    monitor="val_loss",
    schedule="plateau",
    warmup_epochs=0,
    label_smoothing=0.0,
    class_weights=False,
    weight_decay=1e-3,
    mixed_precision=False,
    phases=(),
    git_commit="",
)


def make_config(**changes: Any) -> FitConfig:
    """The options of a training of eight epochs, but for these."""
    return dataclasses.replace(_CONFIG, **changes)


def make_examples(
    *, train: int, side: int = 4, class_weights: Mapping[int, float] | None = None
) -> Examples:
    """So many training clips, and eight for validation."""
    rng = np.random.default_rng(SEED)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, train + 8)]
    clips = rng.integers(0, 200, (train + 8, 2, side, side, 3), dtype=np.uint8)
    clips += (targets[:, 1] * 20).astype(np.uint8)[:, None, None, None, None]
    batches = ClipBatches(
        clips[:train],
        targets[:train],
        batch_size=_CONFIG.batch_size,
        seed=SEED,
        augmentation=Augmentation(jitter=1),
    )
    names = [f"clip{place}" for place in range(train)]
    return Examples(batches, names, (clips[train:], targets[train:]), class_weights)
