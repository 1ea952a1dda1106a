"""How long a training step waits for its clips: python -m benchmarks.input_wait [--steps 12].

Writes cache entries of noise, three candidates for each frame, and trains on them as training.fit
does: augmentation, the pipeline that Keras makes of ClipBatches with as many threads, deterministic
TensorFlow, then the step. Times the wait for each batch beside the step, and what making a batch
takes alone, and writes both to benchmarks/reports/input_wait.md. About four minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import keras
import numpy as np
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

import training.fit  # noqa: F401  sets what has to be set before TensorFlow starts
from benchmarks.report import environment, write_report
from clip import ClipSpec
from training.data.cache import StoredClips
from training.data.index import Clip
from training.learning.augment import Augmentation
from training.learning.batches import MAKERS, ClipBatches
from training.learning.loop import make_deterministic
from training.networks.models import MODELS

CLASSES, BATCH = 10, 16
CASES = (("convlstm", 64), ("lrcn", 64), ("lrcn-efficientnet", 192))


def make_batches(folder: Path, side: int, clips: int) -> ClipBatches:
    """Batches of clips whose cache entries are written to `folder`."""
    augmentation = Augmentation()
    spec = augmentation.training_spec(ClipSpec(height=side, width=side))
    rng = np.random.default_rng(side)
    entries = {}
    for number in range(clips):
        entry = folder / f"{number}.npy"
        np.save(entry, rng.integers(0, 256, spec.shape, dtype=np.uint8))
        entries[Clip(entry.name, "", "")] = entry
    return ClipBatches(
        StoredClips(entries, list(entries)),
        np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, clips)],
        batch_size=BATCH,
        seed=0,
        augmentation=augmentation,
        workers=MAKERS,
    )


def making_alone(batches: ClipBatches) -> float:
    """Milliseconds a clip to make batches, on one core, nothing else running."""
    start = time.perf_counter()
    for index in range(len(batches)):
        batches[index]
    return (time.perf_counter() - start) * 1e3 / (len(batches) * BATCH)


def train(model: keras.Model, batches: ClipBatches, steps: int) -> tuple[float, float, float]:
    """(ms a clip of a step, ms a clip of waiting, ms until the first batch)."""
    adapter = PyDatasetAdapter(batches)
    batch = batches[0]
    model.train_on_batch(*batch)  # traces the graph
    waited, stepped = [], []
    iterator = iter(adapter.get_tf_dataset())
    for _ in range(steps):
        start = time.perf_counter()
        clips, targets = next(iterator)
        ready = time.perf_counter()
        model.train_on_batch(clips, targets)
        waited.append(ready - start)
        stepped.append(time.perf_counter() - ready)
    a_clip = 1e3 / (BATCH * (steps - 1))
    return sum(stepped[1:]) * a_clip, sum(waited[1:]) * a_clip, waited[0] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="of each network (default: 12)")
    steps = parser.parse_args().steps
    cv2.setNumThreads(1)  # as training.data.cache sets it
    lines = [
        "| network | frames of | making a clip alone, ms | step, ms a clip | waiting, ms a clip "
        "| share of time waiting | until an epoch's first batch, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, side in CASES:
        with tempfile.TemporaryDirectory() as folder:
            batches = make_batches(Path(folder), side, steps * BATCH)
            alone = making_alone(batches)
            make_deterministic(0)
            model = MODELS[name](CLASSES, height=side, width=side)
            model.compile(optimizer="adam", loss="categorical_crossentropy", jit_compile=False)
            step, wait, first = train(model, batches, steps)
        lines.append(
            f"| {name} | {side}x{side} | {alone:.1f} | {step:.1f} | {wait:.2f} "
            f"| {wait / (step + wait):.2%} | {first:.0f} |"
        )
    write_report(
        "input_wait",
        "How long a training step waits for its clips",
        [
            *environment("tensorflow", "keras"),
            f"{BATCH} clips of 20 frames a step, {steps} steps, three candidates for each frame, "
            f"all augmentation on, deterministic as in training.fit, {MAKERS} threads making "
            "batches; entries in the page cache; the first batch of an epoch apart.",
        ],
        lines,
    )


if __name__ == "__main__":
    main()
