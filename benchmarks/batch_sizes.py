"""What padding a batch costs on a CPU: python -m benchmarks.batch_sizes [--rounds 15].

Runs both networks as the service does (service.binding), on one thread, once with every batch at
its own size and once padded to powers of two; and as a plain session.run() for comparison. Writes
the medians to benchmarks/reports/batch_sizes.md. About two minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks.report import environment, write_report
from benchmarks.stock_models import STOCK_MODELS
from clip import ClipSpec, ModelManifest
from clip.manifest import INPUT_NAME, OUTPUT_NAME, TRAINING_KEYS
from service.batching import Frames
from service.binding import BoundBatches
from service.session import ONNX_RUNTIME, SessionConfig, open_session
from training.graphs.convert import OPSET, to_onnx
from training.networks.models import MODELS

CLASSES, FRAMES, LARGEST = 10, 20, 8
BUCKETS = (1, 2, 4, 8)


def take_turns(content: bytes, manifest: ModelManifest, rounds: int) -> dict[int, list[float]]:
    """Median milliseconds of CPU for each batch size: plain, bound, bound and padded.

    CPU time, because one thread runs it all and the machine may have other work.
    """
    session = open_session(content, SessionConfig(device="cpu"))

    def bind(buckets: tuple[int, ...] | None) -> Callable[[list[Frames]], object]:
        config = SessionConfig(device="cpu", max_batch_size=LARGEST, batch_buckets=buckets)
        return BoundBatches(session, manifest, config, ONNX_RUNTIME).run

    ways = (
        lambda batch: session.run([OUTPUT_NAME], {INPUT_NAME: np.stack(batch)}),
        bind(None),
        bind(BUCKETS),
    )
    rng = np.random.default_rng(0)
    clips = list(rng.integers(0, 256, (LARGEST, *manifest.clip_spec.shape), np.uint8))
    taken: dict[int, list[list[float]]] = {
        count: [[] for _ in ways] for count in range(1, LARGEST + 1)
    }
    for _ in range(rounds + 1):
        for count, times in taken.items():
            for run, one in zip(ways, times, strict=True):
                start = time.thread_time()
                run(clips[:count])
                one.append((time.thread_time() - start) * 1e3)
    return {count: [median(one[1:]) for one in times] for count, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each (default: 15)")
    rounds = parser.parse_args().rounds
    lines = [
        "| network | clips | session.run(), ms | bound, ms | bound and padded, ms |",
        "|---|---|---|---|---|",
    ]
    for name in STOCK_MODELS:  # the paper's two
        graph = to_onnx(MODELS[name](CLASSES, FRAMES))
        manifest = ModelManifest(
            name=name,
            version=1,
            opset=OPSET,
            ir_version=graph.ir_version,
            classes=tuple(f"class {number}" for number in range(CLASSES)),
            clip_spec=ClipSpec(frames=FRAMES),
            training=dict.fromkeys(TRAINING_KEYS),
            metrics={},
            parity={},
        )
        for count, times in take_turns(graph.SerializeToString(), manifest, rounds).items():
            lines.append(f"| {name} | {count} | " + " | ".join(f"{ms:.1f}" for ms in times) + " |")
    write_report(
        "batch_sizes",
        "Batch sizes on a CPU",
        [
            *environment("onnxruntime-gpu"),
            f"CPU provider, one thread, {FRAMES} frames of 64x64, medians of CPU time; the ways "
            "took turns.",
        ],
        lines,
    )


if __name__ == "__main__":
    main()
