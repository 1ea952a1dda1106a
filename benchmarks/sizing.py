"""What a clip costs in processor time and memory: python -m benchmarks.sizing [--clips 30].

Starts the service with each published model alone and sends it clips one after another: small ones
(5 s of 320x240 H.264) and large ones (10 s of 1080p H.264, a key frame every 250 frames, x264's
default). What is counted is processor time, of the decoders and of the service itself, so that
other work on the machine matters little: it still takes caches and memory's bandwidth. Writes
benchmarks/reports/sizing.md, from which docs/deploy.md calculates. Linux; some five minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import numpy as np

from benchmarks import decode_cost, overload
from benchmarks.report import environment, write_report
from benchmarks.service_process import (
    ServiceProcess,
    peak_mebibytes,
    resident_mebibytes,
    running_service,
)
from service.runtime import load_models
from service.settings import Settings, find_models_dir

#: A large clip costs as much as so many small ones; fewer of them do.
LARGE_CLIPS_ARE_FEWER = 5
BATCH = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of one clip."""

    decoders: float
    service: float


@contextmanager
def service_with(
    models: Path, folder: Path, *, max_batch_size: int = BATCH
) -> Iterator[ServiceProcess]:
    """A service with one decoder and one thread, so that nothing is spent on waiting for others."""
    settings = {
        "MODELS_DIR": models,
        "SPOOL_DIR": folder / "spool",
        "DEVICE": "cpu",
        "DECODERS": 1,
        "INTRA_OP_THREADS": 1,
        "MAX_BATCH_SIZE": max_batch_size,
        "MAX_VERSIONS": 1,
        "LOG_LEVEL": "warning",
    }
    with running_service(settings, folder / "log") as service:
        yield service


def measure_cost(service: ServiceProcess, clip: bytes, count: int) -> Cost:
    """Mean CPU time of a clip, after one that is not counted."""
    with httpx.Client(base_url=service.url, timeout=300) as client:

        def send() -> None:
            client.post(
                "/predict", content=clip, headers={"Content-Type": "video/mp4"}
            ).raise_for_status()

        send()
        all_s, own_s = service.cpu_seconds(), service.own_cpu_seconds()
        for _ in range(count):
            send()
        own_s = service.own_cpu_seconds() - own_s
        all_s = service.cpu_seconds() - all_s
    return Cost(decoders=(all_s - own_s) / count, service=own_s / count)


def measure_network(models: Path, name: str, rounds: int) -> tuple[float, float]:
    """CPU seconds of the network alone: for one clip, and for one of a batch of eight."""
    registry = load_models(
        Settings(models_dir=models, device="cpu", intra_op_threads=1, max_batch_size=BATCH)
    )
    model = registry.get(name)
    rng = np.random.default_rng(0)
    clips = list(rng.integers(0, 256, (BATCH, *model.manifest.clip_spec.shape), np.uint8))
    taken: dict[int, list[float]] = {1: [], BATCH: []}
    for _ in range(rounds):
        for size, times in taken.items():
            start_s = time.thread_time()
            model.run(clips[:size])
            times.append((time.thread_time() - start_s) / size)
    return median(taken[1]), median(taken[BATCH])


def measure_decoders(service: ServiceProcess) -> tuple[float, float]:
    """MiB of the decoders and their parent together, and the peak of the largest of them."""
    processes = service.descendants()
    return sum(map(resident_mebibytes, processes)), max(map(peak_mebibytes, processes))


def make_large_clip(folder: Path) -> bytes:
    path = folder / "large.mp4"
    decode_cost.make_clip(path, 250, "normal")
    return path.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=find_models_dir(), help="a models folder")
    parser.add_argument("--clips", type=int, default=30, help="small clips a model (default: 30)")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    costs = [
        "| model | clip | decoding, ms | the service itself, ms | of that the network alone, ms | a"
        " clip in all, ms | clips/s a core |",
        "|---|---|---|---|---|---|---|",
    ]
    memory = [
        f"| models | service, batches of up to {BATCH}, MiB | after the clips, MiB | service, no"
        " batches, MiB | a decoder and its parent after small clips, MiB | after large clips, MiB |"
        " a decoder's peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    batches = []
    names = sorted(path.name for path in arguments.models.iterdir() if path.is_dir())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clips = {"320x240": overload.make_clip(), "1080p": make_large_clip(folder)}
        for name in [*names, ""]:  # each alone, then all
            models = folder / "models" / (name or "all")
            for each in [name] if name else names:
                shutil.copytree(arguments.models / each, models / each)
            networks = measure_network(models, name, arguments.clips) if name else None
            with service_with(models, folder) as service:
                started = resident_mebibytes(service.process_id)
                decoders = []
                for size, clip in clips.items():
                    few = size == "1080p"
                    count = max(arguments.clips // (LARGE_CLIPS_ARE_FEWER if few else 1), 1)
                    cost = measure_cost(service, clip, count)
                    decoders.append(measure_decoders(service))
                    if networks is not None:
                        total = cost.decoders + cost.service
                        costs.append(
                            f"| {name} | {size} | {cost.decoders * 1e3:.0f} | "
                            f"{cost.service * 1e3:.0f} | {networks[0] * 1e3:.0f} | "
                            f"{total * 1e3:.0f} | {1 / total:.1f} |"
                        )
                after = resident_mebibytes(service.process_id)
            with service_with(models, folder, max_batch_size=1) as service:
                alone = resident_mebibytes(service.process_id)
            (small, _), (large, peak) = decoders
            memory.append(
                f"| {name or 'all of them'} | {started:.0f} | {after:.0f} | {alone:.0f} | "
                f"{small:.0f} | {large:.0f} | {peak:.0f} |"
            )
            if networks is not None:
                batches.append(f"{networks[1] * 1e3:.0f} ms for {name}")
    remarks = [
        *environment("av", "onnxruntime-gpu", "fastapi"),
        "Processor time, user and system, on one core of it; the load average was",
        f"{load_before:.1f} before. Small clips are 5 s of 320x240 H.264 with moving noise,",
        f"{len(clips['320x240']) / 1000:.0f} KB; large ones 10 s of 1080p H.264,",
        f"{len(clips['1080p']) / 1e6:.1f} MB. One decoder, one thread. Memory is Pss, what",
        "processes share divided among them, but for the peak, which is the resident set. Of each",
        "model the newest version.",
    ]
    in_batches = f"The network alone, one clip of a batch of {BATCH}: {', '.join(batches)}."
    write_report(
        "sizing", "What a clip costs on a CPU", remarks, [*costs, "", *memory, "", in_batches]
    )


if __name__ == "__main__":
    main()
