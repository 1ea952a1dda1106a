"""The service as a process of its own, as it is run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

WAIT_S = 60.0


@dataclass
class ServiceProcess:
    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def predict(self, clip: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", files={"file": clip}, timeout=WAIT_S)

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=WAIT_S).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def await_metric(self, name: str, value: float) -> None:
        give_up_s = time.monotonic() + WAIT_S
        while self.metric(name) != value:
            assert time.monotonic() < give_up_s, f"{name} is {self.metric(name)}"

    def requests(self) -> list[dict[str, Any]]:
        """The log's lines about requests."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["message"] == "request"]

    def children(self) -> set[int]:
        """Every process below this one."""
        found: set[int] = set()
        due = [self.process.pid]
        while due:
            for thread in Path(f"/proc/{due.pop()}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    new = {int(word) for word in thread.read_text().split()} - found
                    found |= new
                    due.extend(new)
        return found

    def stop(self, stop: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code; nothing it started is left."""
        children = self.children()
        self.process.send_signal(stop)
        code = self.process.wait(WAIT_S)
        await_gone(children)
        return code


def await_gone(processes: set[int]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < give_up_s, processes


Launch = Callable[..., contextlib.AbstractContextManager[ServiceProcess]]


def limit_files(most: int | None, command: list[str]) -> list[str]:
    """The command, run with a limit of open files."""
    if most is None:
        return command
    return ["sh", "-c", f'ulimit -n {most} && exec "$@"', "sh", *command]


def await_ready(process: subprocess.Popen[str], log: Path) -> str:
    """The address, from the log's line."""
    give_up_s = time.monotonic() + WAIT_S
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if '"message": "ready"' in line:
                address: str = json.loads(line)["address"]
                return address
        assert time.monotonic() < give_up_s, "not ready"
        threading.Event().wait(0.01)
    pytest.fail(f"ended: {log.read_text()}")


def read_answer(connection: socket.socket) -> bytes:
    received = bytearray()
    while piece := connection.recv(65536):
        received += piece
    return bytes(received)


@contextmanager
def launch_service(
    models_dir: Path, folder: Path, *, max_files: int | None = None, **variables: object
) -> Iterator[ServiceProcess]:
    """Start it, wait until it is ready, kill it at the end; its spool and log are in `folder`."""
    log = folder / "service.log"
    settings: Mapping[str, object] = {
        "HAR_PORT": 0,
        "HAR_MODELS_DIR": models_dir,
        "HAR_SPOOL_DIR": folder / "spool",
        "HAR_DECODERS": 2,
        "HAR_INTRA_OP_THREADS": 1,
        "HAR_LOG_FORMAT": "json",
    }
    own = {name: text for name, text in os.environ.items() if not name.startswith("HAR_")}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            limit_files(max_files, [sys.executable, "-W", "error", "-m", "service"]),
            env=own | {name: str(value) for name, value in (settings | variables).items()},
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield ServiceProcess(process, await_ready(process, log), log)
        finally:
            process.kill()
