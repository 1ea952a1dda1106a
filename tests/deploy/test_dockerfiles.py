"""The images' Dockerfiles, and what docker/ puts into the images."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("service.Dockerfile", "training.Dockerfile")


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Instructions and their arguments."""
    return read_instructions(request.param)


def read_instructions(name: str) -> list[tuple[str, str]]:
    text = (ROOT / "docker" / name).read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    parts = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(instruction, arguments) for instruction, arguments in parts]


def last_stage(instructions: list[tuple[str, str]]) -> dict[str, str]:
    start = max(i for i, (instruction, _) in enumerate(instructions) if instruction == "FROM")
    return dict(instructions[start:])


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_image_runs_as_somebody_by_number(dockerfile: list[tuple[str, str]]) -> None:
    user, _, group = last_stage(dockerfile)["USER"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_commands_are_started_without_a_shell(dockerfile: list[tuple[str, str]]) -> None:
    stage = last_stage(dockerfile)
    for instruction in ("CMD", "ENTRYPOINT"):
        if instruction in stage:
            assert json.loads(stage[instruction])
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_health_is_readiness_asked_without_a_shell() -> None:
    health = last_stage(read_instructions("service.Dockerfile"))["HEALTHCHECK"]
    command = json.loads(health.partition("CMD ")[2])
    assert command == ["python", "-IS", "/app/healthcheck.py"]


def test_nothing_is_fetched_but_by_pip_and_apt(dockerfile: list[tuple[str, str]]) -> None:
    assert not [arguments for instruction, arguments in dockerfile if instruction == "ADD"]
    assert not [a for i, a in dockerfile if i == "RUN" and re.search(r"curl|wget|https?:", a)]


def test_bases_are_pinned_to_a_release(dockerfile: list[tuple[str, str]]) -> None:
    [base] = [a for i, a in dockerfile if i == "ARG" and a.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-[a-z]+", base)


def test_labels_tell_the_projects_version(dockerfile: list[tuple[str, str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (
        f'org.opencontainers.image.version="{project["version"]}"'
        in last_stage(dockerfile)["LABEL"]
    )


def test_what_is_copied_reaches_the_builder_and_nothing_else_does(
    dockerfile: list[tuple[str, str]],
) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    sent = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    for instruction, arguments in dockerfile:
        if instruction == "COPY" and "--from" not in arguments:
            assert set(arguments.split()[:-1]) <= sent
    for kept_out in (".git", ".venv", "models", "tests", "runs", "benchmarks", ".env"):
        assert not [pattern for pattern in sent if fnmatch.fnmatch(pattern, f"{kept_out}*")]


def test_hadolint_finds_nothing() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=path)
    if hadolint is None:
        pytest.skip("no hadolint here")
    files = [str(ROOT / "docker" / name) for name in DOCKERFILES]
    done = subprocess.run(
        [hadolint, "--no-color", *files], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variant", "runtime"),
    [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu[cuda,cudnn]")],
)
def test_a_variant_has_one_onnx_runtime_and_no_tensorflow(variant: str, runtime: str) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    requirements = load("requirements").list_requirements(pyproject, variant, [])
    assert [r for r in requirements if r.startswith("onnxruntime")] == [f"{runtime}>=1.31,<2"]
    assert not [r for r in requirements if "tensorflow" in r]
    # All but the two ONNX Runtimes, of which one is in.
    assert len(requirements) == len(tomllib.loads(pyproject)["project"]["dependencies"]) - 1


def test_extras_are_those_of_the_project() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    requirements = load("requirements")
    tracing = requirements.list_requirements(pyproject, "cpu", ["tracing"])
    assert "opentelemetry-sdk>=1.45,<2" in tracing
    with pytest.raises(KeyError):
        requirements.list_requirements(pyproject, "cpu", ["nonsense"])


@pytest.fixture(params=[200, 503])
def answering(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A server that answers /health/ready with a status: its port and the status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, request.param
        server.shutdown()
        thread.join()


def test_the_healthcheck_tells_ready_from_not(answering: tuple[int, int]) -> None:
    port, status = answering
    done = subprocess.run(
        [sys.executable, "-IS", str(ROOT / "docker/healthcheck.py")],
        env={"HAR_PORT": str(port)}, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == (0 if status == 200 else 1)


def test_a_service_that_is_not_there_is_not_ready() -> None:
    # Port 1 belongs to nobody here.
    assert load("healthcheck").is_ready(1) is False
