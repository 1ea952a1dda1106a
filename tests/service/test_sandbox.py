"""Confinement, tried from inside by a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS has less of it")

MEMORY_BYTES = 256 * 1024 * 1024
CONFINED = f"""
import os, resource, tempfile
from service.sandbox import Confinement, confine, forbid_opening, limit_cpu
file = tempfile.TemporaryFile(buffering=0)
confine(Confinement(memory_bytes={MEMORY_BYTES}, cpu_s=1), os.getppid())
"""


def run_confined(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", CONFINED + program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ("file.write(b'x')", "File too large"),
        (f"bytearray({MEMORY_BYTES})", "MemoryError"),
        ("[os.dup(0) for _ in range(32)]", "Too many open files"),
        ("with forbid_opening(file.fileno()): os.dup(0)", "Too many open files"),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))", "not allowed to raise"),
        ("confine(Confinement(1, 1), -1)", "the parent is gone"),
    ],
)
def test_what_is_forbidden_fails(attempt: str, refusal: str) -> None:
    if attempt.startswith("resource") and os.geteuid() == 0:
        pytest.skip("root may raise its limits")
    ended = run_confined(attempt)
    assert ended.returncode == 1
    assert refusal in ended.stderr


def test_the_system_ends_what_computes_for_too_long() -> None:
    ended = run_confined("limit_cpu(1)\nwhile True: pass")
    assert ended.returncode == -signal.SIGXCPU


def test_no_program_gives_it_privileges() -> None:
    ended = run_confined(
        "print([line for line in open('/proc/self/status') if line.startswith('NoNewPrivs')])"
    )
    assert "NoNewPrivs:\\t1" in ended.stdout
