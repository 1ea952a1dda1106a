"""The service as a process of its own, for benchmarks: started, asked about itself, and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

_STOP_TIMEOUT_S = 60
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A running service; `process_id` is its own, `url` where it listens."""

    process_id: int
    url: str

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric with one label, by that label's value; "" where it has none."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return {
            "".join(sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def models(self) -> list[dict[str, Any]]:
        """What GET /models lists."""
        listed: list[dict[str, Any]] = httpx.get(f"{self.url}/models", timeout=60).json()["models"]
        return listed

    def descendants(self) -> list[int]:
        """The processes that it has started, and theirs."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended since
            parents[int(stat.parent.name)] = int(fields[1])
        found, pending = [], [self.process_id]
        while pending:
            parent = pending.pop()
            children = [child for child, its_parent in parents.items() if its_parent == parent]
            found += children
            pending += children
        return found

    def cpu_seconds(self) -> float:
        """Processor seconds of the service and all below it, ended children included (Linux)."""
        return _cpu_seconds_of_tree(self.process_id)

    def own_cpu_seconds(self) -> float:
        """Processor seconds of the service's own process."""
        return sum(_read_cpu_seconds(self.process_id)[:2])

    def open_files(self) -> int:
        """Descriptors that the service itself has open."""
        return len(list(Path(f"/proc/{self.process_id}/fd").iterdir()))

    def threads(self) -> int:
        """Threads of the service itself."""
        return len(list(Path(f"/proc/{self.process_id}/task").iterdir()))


def resident_mebibytes(process_id: int) -> float:
    """Memory that a process holds and shares with no other one, and its part of what it shares."""
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / _MEBIBYTE
    raise ValueError("no Pss in smaps_rollup")


def peak_mebibytes(process_id: int) -> float:
    """The most memory that a process has had resident, what it shares with others included."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / _MEBIBYTE
    raise ValueError("no VmHWM in status")


def _read_cpu_seconds(process_id: int) -> list[float]:
    """Of itself in user and system mode, then of its ended children."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:15]]


def _cpu_seconds_of_tree(process_id: int) -> float:
    children = [
        int(child)
        for thread in Path(f"/proc/{process_id}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return sum(_read_cpu_seconds(process_id)) + sum(map(_cpu_seconds_of_tree, children))


@contextmanager
def running_service(settings: Mapping[str, object], log: Path) -> Iterator[ServiceProcess]:
    """Start `python -m service` on a free port of 127.0.0.1, wait until it is ready, stop it.

    Args:
        settings: HAR_ variables without their prefix.
        log: file for what it prints.

    Raises:
        RuntimeError: it does not start, or does not stop with exit code 0.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HAR_")}
    variables = {"HOST": "127.0.0.1", "PORT": 0} | dict(settings)
    environment = kept | {f"HAR_{name}": str(value) for name, value in variables.items()}
    with (
        log.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        greeting = process.stdout.readline()
        try:
            if "ready at " not in greeting:
                raise RuntimeError(f"the service does not start: {log.read_text()}")
            url = greeting.split("ready at ")[1].split()[0]
            yield ServiceProcess(process.pid, url)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                exit_code = process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if exit_code:
            raise RuntimeError(f"the service stopped with exit code {exit_code}")
