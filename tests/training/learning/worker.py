"""One worker of a tiny training: python worker.py FOLDER, TF_CONFIG in the environment or not."""

import dataclasses
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from tests.training.drawn import make_config, make_examples
from training.learning.loop import make_deterministic, train
from training.learning.workers import join_workers
from training.networks.recipes import Phase

CONFIG = make_config(epochs=4, class_weights=True, ema=0.9)


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
    # Batches of three clips and of four: two workers have shares of one and two, or of two each.
    examples = make_examples(train=17, class_weights={0: 0.5, 1: 2.0})
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
