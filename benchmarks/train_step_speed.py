"""What the fast layers gain in training: python -m benchmarks.train_step_speed [--rounds 10].

The stock network and ours, compiled alike, take turns on training steps over one batch; medians.
So does ours with --mixed-precision, whose gain depends on the processor.
Once as training.fit trains, where every run of a seed gives the same bits, and once as TensorFlow
does it by itself: that cannot be switched within a process, so two kinds of processes take turns
too. Writes benchmarks/reports/train_step_speed.md. About ten minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks.report import environment, write_report

CLASSES, FRAMES = 10, 20
MODES = {
    "deterministic": "as training.fit (deterministic, one operation at a time)",
    "free": "TensorFlow's own way",
}
#: Turns of each kind of process.
TURNS = 2
#: The first steps of a process trace the graph and touch the memory.
WARM_UPS = 2

#: Milliseconds a clip of each step, by network and by layers.
Times = dict[str, dict[str, list[float]]]


def measure(mode: str, rounds: int, batch: int) -> Times:
    """Time steps in this process, which has not used TensorFlow before."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if mode == "deterministic":
        import training.fit  # noqa: F401, PLC0415  sets what has to be set before TensorFlow starts

    import keras  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    from benchmarks.stock_models import STOCK_MODELS  # noqa: PLC0415
    from training.learning.loop import make_deterministic, precision  # noqa: PLC0415
    from training.networks.models import MODELS  # noqa: PLC0415

    if mode == "deterministic":
        make_deterministic(0)
    rng = np.random.default_rng(0)
    shape = (batch, FRAMES, 64, 64, 3)
    clips = rng.integers(0, 256, shape, dtype=np.uint8).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, batch)]
    times: Times = {}
    for name, build_stock in STOCK_MODELS.items():
        models: dict[str, keras.Model] = {
            "stock": build_stock(CLASSES, FRAMES),
            "fast": MODELS[name](CLASSES, FRAMES),
        }
        with precision(mixed=True):
            models["mixed"] = MODELS[name](CLASSES, FRAMES)
        for model in models.values():
            # As training.learning.loop.compile_model does.
            model.compile(
                "adam", "categorical_crossentropy", metrics=["accuracy"], jit_compile=False
            )
        times[name] = {kind: [] for kind in models}
        for _ in range(WARM_UPS + rounds):
            for kind, model in models.items():
                start = time.perf_counter()
                model.train_on_batch(clips, targets)
                times[name][kind].append((time.perf_counter() - start) * 1e3 / batch)
    return {
        name: {kind: taken[WARM_UPS:] for kind, taken in kinds.items()}
        for name, kinds in times.items()
    }


def run_process(mode: str, rounds: int, batch: int) -> Times:
    """What `measure` finds in a process of its own."""
    environment_of_child = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTEROP_THREADS"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.train_step_speed"),
            *(f"--mode={mode}", f"--rounds={rounds}", f"--batch={batch}"),
        ],
        cwd=Path(__file__).parents[1],
        env=environment_of_child,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    times: Times = json.loads(done.stdout.splitlines()[-1])
    return times


def write_rows(times: Mapping[str, Times]) -> list[str]:
    """The report's table."""
    lines = [
        "| network | trained | stock layers, ms a clip | fast layers, ms a clip | times faster "
        "| with --mixed-precision, ms a clip |",
        "|---|---|---|---|---|---|",
    ]
    for name in next(iter(times.values())):
        for mode, title in MODES.items():
            stock, fast, mixed = (
                median(times[mode][name][kind]) for kind in ("stock", "fast", "mixed")
            )
            lines.append(
                f"| {name} | {title} | {stock:.0f} | {fast:.0f} | {stock / fast:.2f} "
                f"| {mixed:.0f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="steps of each (default: 10)")
    parser.add_argument("--batch", type=int, default=16, help="clips a step (default: 16)")
    parser.add_argument("--mode", choices=MODES, help="measure in this process, print JSON")
    arguments = parser.parse_args()
    rounds, batch = arguments.rounds, arguments.batch
    if arguments.mode:
        print(json.dumps(measure(arguments.mode, rounds, batch)))
        return
    times: dict[str, Times] = {}
    for _ in range(TURNS):
        for mode in MODES:
            found = run_process(mode, -(-rounds // TURNS), batch)
            before = times.setdefault(mode, found)
            if before is not found:
                for name, kinds in found.items():
                    for kind, taken in kinds.items():
                        before[name][kind] += taken
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "TensorFlow's choice for this processor")
    write_report(
        "train_step_speed",
        "A training step with the fast layers against stock Keras layers",
        [
            *environment("tensorflow", "keras"),
            f"{batch} clips of {FRAMES} frames of 64x64 a step, Adam, on the processor; medians of "
            f"{-(-rounds // TURNS) * TURNS} steps in {TURNS} processes, networks and processes "
            f"taking turns. oneDNN: {onednn}.",
        ],
        write_rows(times),
    )


if __name__ == "__main__":
    main()
