"""Processes that train together on this machine, by TF_CONFIG."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A machine ten times slower than the one that this was written on needs a third of it.
BOUND_S = 1200.0
#: Between looking for a free port and taking it another program may have it.
ATTEMPTS = 3
_PORT_TAKEN = "Address already in use"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def run_together(
    commands: Sequence[Sequence[str]], logs: Path, *, types: Sequence[str] = ()
) -> list[tuple[int, str]]:
    """Run a Python command each, as the tasks of one cluster; alone, it is without TF_CONFIG.

    Args:
        commands: what follows the interpreter, by task.
        logs: a folder for what they print.
        types: of the tasks, "chief" or "worker"; workers by default.

    Returns:
        (status, output) of each.
    """
    for _ in range(ATTEMPTS):
        ended = _run_once(commands, logs, types or ["worker"] * len(commands))
        if not any(_PORT_TAKEN in output for _, output in ended):
            break
    return ended


def _run_once(
    commands: Sequence[Sequence[str]], logs: Path, types: Sequence[str]
) -> list[tuple[int, str]]:
    cluster: dict[str, list[str]] = {}
    tasks = []
    for kind, port in zip(types, free_ports(len(commands)), strict=True):
        tasks.append({"type": kind, "index": len(cluster.setdefault(kind, []))})
        cluster[kind].append(f"127.0.0.1:{port}")
    files = [(logs / f"task{place}.log").open("w+") for place in range(len(commands))]
    processes = []
    for command, task, file in zip(commands, tasks, files, strict=True):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
        environment.pop("TF_CONFIG", None)
        if len(commands) > 1:
            environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        )
    deadline = time.monotonic() + BOUND_S
    try:
        # One that fails leaves the others waiting for it.
        while time.monotonic() < deadline:
            codes = [process.poll() for process in processes]
            if None not in codes or any(codes):
                break
            time.sleep(0.1)
        for process in processes:
            process.wait(timeout=60 if any(codes) else 1)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ended = []
    for process, file in zip(processes, files, strict=True):
        file.seek(0)
        ended.append((process.returncode, file.read()))
        file.close()
    return ended
