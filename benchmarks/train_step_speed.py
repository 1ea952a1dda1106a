"""What the fast layers gain in training: python -m benchmarks.train_step_speed [--rounds 5].

Compiles the stock network and ours alike and lets them take turns on training steps over one batch.
Writes medians to benchmarks/reports/train_step_speed.md. About five minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from benchmarks.report import environment, write_report
from benchmarks.stock_models import STOCK_MODELS
from training.models import MODELS

CLASSES, FRAMES = 10, 20


def compile_model(model: keras.Model) -> keras.Model:
    """Compile as training.fit does."""
    model.compile(optimizer="adam", loss="categorical_crossentropy", jit_compile=False)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--batch", type=int, default=16, help="clips a step (default: 16)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (arguments.batch, FRAMES, 64, 64, 3)
    clips = rng.integers(0, 256, shape, dtype=np.uint8).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, arguments.batch)]
    lines = [
        "| network | stock layers, ms a clip | fast layers, ms a clip | times faster |",
        "|---|---|---|---|",
    ]
    for name, build_stock in STOCK_MODELS.items():
        models = {
            "stock": compile_model(build_stock(CLASSES, FRAMES)),
            "fast": compile_model(MODELS[name](CLASSES, FRAMES)),
        }
        taken: dict[str, list[float]] = {kind: [] for kind in models}
        for _ in range(arguments.rounds + 2):
            for kind, model in models.items():
                start = time.perf_counter()
                model.train_on_batch(clips, targets)
                taken[kind].append((time.perf_counter() - start) * 1e3 / arguments.batch)
        # The first two turns trace the graph and touch the memory.
        stock, fast = (median(taken[kind][2:]) for kind in models)
        lines.append(f"| {name} | {stock:.0f} | {fast:.0f} | {stock / fast:.2f} |")
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "TensorFlow's choice for this processor")
    write_report(
        "train_step_speed",
        "A training step with the fast layers against stock Keras layers",
        [
            *environment("tensorflow", "keras"),
            f"{arguments.batch} clips of {FRAMES} frames of 64x64 a step, Adam, medians of "
            f"{arguments.rounds}; the models took turns. oneDNN: {onednn}.",
        ],
        lines,
    )


if __name__ == "__main__":
    main()
