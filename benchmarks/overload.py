"""A service under three times its capacity: python -m benchmarks.overload [--models DIR].

Starts the service as a process, finds its capacity with eight clients that send one clip after the
other, then sends three times that many requests a second for a minute, whatever becomes of them
(an open loop), then looks how soon it is itself again. Writes benchmarks/reports/overload.md. About
two minutes. Client and service share the machine: the capacity found is lower than that of a
service that has it for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.report import environment, write_report
from benchmarks.service_process import ServiceProcess, running_service
from service.settings import find_models_dir

CLIENTS, WARM_UP_S, CAPACITY_S, OVERLOAD_S, TIMES = 8, 2.0, 20.0, 60.0, 3
RECOVERY_REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end: status (0 where there was none), seconds, whether Retry-After came."""

    status: int
    seconds: float
    has_retry_after: bool
    ended_s: float


def make_clip() -> bytes:
    """Five seconds of 320x240 H.264 with moving noise: some 300 KB."""
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w") as output:
            stream = output.add_stream("libx264", rate=25, options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for index in range(125):
                frame = np.roll(picture, (index, 2 * index), (0, 1))
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            output.mux(stream.encode(None))
        return Path(file.name).read_bytes()


async def ask(address: tuple[str, int], clip: bytes) -> Answer:
    """Send one clip on a connection of its own, as one client of many would."""
    began_s = time.perf_counter()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: benchmark\r\nContent-Type: video/mp4\r\n"
        f"Content-Length: {len(clip)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answer = b""
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if answer.startswith(b"HTTP/1.1 100 "):
            writer.write(clip)
            answer = await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        pass
    ended_s = time.perf_counter()
    status = int(answer.split()[1]) if answer else 0
    return Answer(status, ended_s - began_s, b"\r\nretry-after:" in answer.lower(), ended_s)


async def measure_capacity(address: tuple[str, int], clip: bytes, seconds: float) -> float:
    """Clips a second that a handful of patient clients get answered."""
    answered = 0
    until_s = time.perf_counter() + seconds

    async def insist() -> None:
        nonlocal answered
        while time.perf_counter() < until_s:
            answer = await ask(address, clip)
            answered += answer.status == 200

    await asyncio.gather(*(insist() for _ in range(CLIENTS)))
    return answered / seconds


async def overload(address: tuple[str, int], clip: bytes, per_s: float) -> list[Answer]:
    """Send `per_s` requests a second, whether the ones before are answered or not."""
    tasks = []
    began_s = time.perf_counter()
    for number in range(round(per_s * OVERLOAD_S)):
        await asyncio.sleep(began_s + number / per_s - time.perf_counter())
        tasks.append(asyncio.create_task(ask(address, clip)))
    return list(await asyncio.gather(*tasks))


async def measure(service: ServiceProcess, clip: bytes) -> list[str]:
    """The report's lines."""
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    address = host, int(port)
    await measure_capacity(address, clip, WARM_UP_S)
    idle_cpu_s = service.cpu_seconds()
    before = await measure_capacity(address, clip, CAPACITY_S)
    capacity_cpu_s = service.cpu_seconds() - idle_cpu_s
    alone = [await ask(address, clip) for _ in range(RECOVERY_REQUESTS)]
    began_s, began_cpu_s = time.perf_counter(), service.cpu_seconds()
    answers = await overload(address, clip, TIMES * before)
    overload_cpu_s = service.cpu_seconds() - began_cpu_s
    took_s = max(answer.ended_s for answer in answers) - began_s
    after_s = time.perf_counter()
    recovered = [await ask(address, clip) for _ in range(RECOVERY_REQUESTS)]
    after = await measure_capacity(address, clip, CAPACITY_S)
    capacity = (before + after) / 2
    statuses = dict.fromkeys(sorted({answer.status for answer in answers}), 0)
    for answer in answers:
        statuses[answer.status] += 1
    good = [answer.seconds for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    with_retry_after = sum(answer.has_retry_after for answer in refused)
    first_good_s = next(answer.ended_s for answer in recovered if answer.status == 200) - after_s

    def describe(seconds: list[float]) -> str:
        middle, late = np.percentile(seconds, [50, 99]) if seconds else (np.nan, np.nan)
        return f"{middle * 1000:.0f} / {late * 1000:.0f}"

    return [
        "| | |",
        "|---|---|",
        f"| capacity, {CLIENTS} clients in turn, before and after | {before:.1f} and {after:.1f}"
        " clips/s |",
        f"| offered for {OVERLOAD_S:.0f} s | {TIMES * before:.1f} requests/s |",
        f"| answers by status | {', '.join(f'{key}: {n}' for key, n in statuses.items())} |",
        f"| goodput | {len(good) / took_s:.1f} clips/s, {len(good) / took_s / capacity:.0%} of"
        " the capacities' mean |",
        f"| the service's CPU time an answered clip: capacity, overload | "
        f"{capacity_cpu_s / (before * CAPACITY_S) * 1000:.0f} and"
        f" {overload_cpu_s / len(good) * 1000:.0f} ms |",
        f"| 200: median / 99th percentile | {describe(good)} ms |",
        f"| 429: median / 99th percentile | {describe([one.seconds for one in refused])} ms |",
        f"| 429 with Retry-After | {with_retry_after} of {len(refused)} |",
        f"| one client, before: median / 99th percentile | {describe([a.seconds for a in alone])}"
        " ms |",
        f"| one client, right after: the same | {describe([a.seconds for a in recovered])} ms |",
        f"| first good answer after the last of the crowd's | {first_good_s:.2f} s |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=find_models_dir(), help="a models folder")
    models: Path = parser.parse_args().models
    clip = make_clip()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"MODELS_DIR": models, "SPOOL_DIR": f"{folder}/spool", "LOG_LEVEL": "warning"}
        with running_service(settings, Path(folder) / "log") as service:
            (model,) = (one for one in service.models() if one["default"])
            lines = asyncio.run(measure(service, clip))
    remarks = [
        *environment("fastapi", "uvicorn", "av"),
        f"The service has its default settings; its default model is {model['name']} version",
        f"{model['version']}. Client and service share the machine, whose load average was",
        f"{load_before:.1f} before. A clip is 5 s of 320x240 H.264, {len(clip) / 1000:.0f} KB,",
        "each on a connection of its own, with Expect: 100-continue.",
    ]
    write_report("overload", "Three times what the service can do", remarks, lines)


if __name__ == "__main__":
    main()
