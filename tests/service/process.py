"""The service's programs as processes of their own, as they are run."""

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
from typing import IO, Any

import httpx
import pytest

from tests.service.gate import WAIT_S


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
        return find_children(self.process.pid)

    def stop(self, stop: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code; nothing it started is left."""
        children = self.children()
        self.process.send_signal(stop)
        code = self.process.wait(WAIT_S)
        await_gone(children)
        return code


def find_children(process_id: int) -> set[int]:
    """Every process below that one."""
    found: set[int] = set()
    due = [process_id]
    while due:
        for thread in Path(f"/proc/{due.pop()}/task").glob("*/children"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                new = {int(word) for word in thread.read_text().split()} - found
                found |= new
                due.extend(new)
    return found


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
def started(
    variables: Mapping[str, object],
    *arguments: object,
    module: str = "service",
    max_files: int | None = None,
    stdout: int | IO[str] = subprocess.PIPE,
    stderr: int | IO[str] = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """A module run as a program, with these HAR_ variables and no others; killed at the end.

    Without another word in `variables` it has one decoder and one thread: on a machine that is
    short of memory more of them are warned of.
    """
    own = {name: text for name, text in os.environ.items() if not name.startswith("HAR_")}
    settings = {"HAR_DECODERS": 1, "HAR_INTRA_OP_THREADS": 1} | dict(variables)
    # Where the tests run in a shell's background, or under nohup, signals are ignored, and children
    # inherit that.
    inherited = {
        one: signal.signal(one, handler)
        for one, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGHUP, signal.SIG_DFL),
        )
    }
    process = subprocess.Popen(
        limit_files(max_files, [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]),
        env=own | {name: str(value) for name, value in settings.items()},
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    for one, handler in inherited.items():
        signal.signal(one, handler)
    with process:
        try:
            yield process
        finally:
            process.kill()


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
        "HAR_LOG_FORMAT": "json",
    }
    with (
        log.open("w") as errors,
        started(
            settings | variables, max_files=max_files, stdout=subprocess.DEVNULL, stderr=errors
        ) as process,
    ):
        yield ServiceProcess(process, await_ready(process, log), log)
