"""One worker of a tiny training: python worker.py FOLDER, TF_CONFIG in the environment or not."""

import dataclasses
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
from keras import layers

from training.augment import Augmentation
from training.batches import ClipBatches
from training.loop import Examples, make_deterministic, train
from training.options import FitConfig
from training.recipes import Phase
from training.workers import join_workers

CONFIG = FitConfig(
    data="drawn",
    dataset="drawn",
    groups=None,
    classes=("dark", "light"),
    model="dense",
    clip_spec={},
    skip_bad=False,
    split="random",
    split_file=None,
    seed=3,
    epochs=4,
    batch_size=4,
    learning_rate=1e-2,
    augmentation={},
    patience=3,
    monitor="val_loss",
    schedule="plateau",
    warmup_epochs=0,
    label_smoothing=0.0,
    class_weights=True,
    weight_decay=1e-3,
    mixed_precision=False,
    phases=(),
    git_commit="",
)


def main() -> None:
    workers = join_workers()
    make_deterministic(CONFIG.seed)
    model = keras.Sequential(
        [
            keras.Input((2, 4, 4, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(2, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(CONFIG.seed)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 25)]
    clips = rng.integers(0, 200, (25, 2, 4, 4, 3), dtype=np.uint8)
    clips += (targets[:, 1] * 20).astype(np.uint8)[:, None, None, None, None]
    # The last batch has one clip: one of two workers has nothing to do there.
    batches = ClipBatches(
        clips[:17],
        targets[:17],
        batch_size=CONFIG.batch_size,
        seed=CONFIG.seed,
        augmentation=Augmentation(jitter=1),
    )
    names = [f"clip{place}" for place in range(17)]
    examples = Examples(batches, names, (clips[17:], targets[17:]), {0: 0.5, 1: 2.0})
    folder = Path(sys.argv[1])
    if not workers.is_chief:
        # Whatever it wrote would be there, and not where the chief writes.
        folder = folder / f"worker{workers.index}"
    trained = train(model, examples, CONFIG, (Phase("all"),), folder, workers=workers)
    record = {**dataclasses.asdict(trained), "best_weights": [], "seconds": 0}
    total = sum(np.abs(weight).sum(dtype=np.float64) for weight in trained.best_weights)
    np.savez(Path(sys.argv[1]) / f"end{workers.index}.npz", record=repr(record), total=total)


if __name__ == "__main__":
    main()
