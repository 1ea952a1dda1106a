"""Real small things to test the service with: ONNX models, clips and servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip import ClipSpec, Limits
from clip.manifest import ModelManifest
from service.batching import Frames, Outcome, RunBatch
from service.decoding import DecodePool
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.runtime import Collaborators, load_models
from service.settings import Settings
from tests.service.colours import build_colour_model, encode_clip, make_manifest, seal, write_model
from tests.service.gate import WAIT_S, Gate
from tests.service.live import DEFAULTS, LiveService, expect_unharmed, run_service, wait_until
from tests.service.process import ServiceProcess, launch_service

BuildModel = Callable[..., tuple[ModelManifest, bytes]]
PublishModel = Callable[..., Path]
MakeClip = Callable[..., bytes]
StartService = Callable[..., AbstractContextManager["LiveService"]]
Launch = Callable[..., AbstractContextManager[ServiceProcess]]
Unharmed = Callable[["LiveService"], AbstractContextManager[None]]
WaitFor = Callable[[Callable[[], object]], None]
ExpectProblem = Callable[[httpx.Response, int, str], dict[str, Any]]
RunAsync = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Settings are what the tests say, whatever the shell that runs them has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"HAR_{name.upper()}", raising=False)
        yield


# --- models ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def build_model() -> BuildModel:
    """build_model(flaw=..., **manifest changes) -> (sealed manifest, bytes of the .onnx file)."""

    def build(*, flaw: str | None = None, **changes: Any) -> tuple[ModelManifest, bytes]:
        manifest = make_manifest(**changes)
        content = build_colour_model(manifest, flaw=flaw).SerializeToString()
        return seal(manifest, content), content

    return build


@pytest.fixture(scope="session")
def publish_model() -> PublishModel:
    """publish_model(models_dir, name, version, flaw=..., **manifest changes) -> its folder."""

    def publish(
        models_dir: Path,
        name: str = "colour",
        version: int = 1,
        *,
        flaw: str | None = None,
        **changes: Any,
    ) -> Path:
        manifest = make_manifest(name, version, **changes)
        content = build_colour_model(manifest, flaw=flaw).SerializeToString()
        return write_model(models_dir, manifest, content)

    return publish


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory, publish_model: PublishModel) -> Path:
    """lrcn 1, and tiny 1 and 2, whose clips have another size and number of frames."""
    folder = tmp_path_factory.mktemp("models")
    publish_model(folder, "lrcn", 1)
    tiny = ClipSpec(frames=5, height=32, width=48)
    publish_model(folder, "tiny", 1, clip_spec=tiny)
    publish_model(folder, "tiny", 2, clip_spec=tiny, classes=("rot", "grün"))
    return folder


# --- clips ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_clip() -> MakeClip:
    """make_clip("red", frames=30, size=(64, 48), container="mp4", codec="mpeg4") -> bytes."""
    return encode_clip


@pytest.fixture(scope="session")
def red_clip() -> bytes:
    return encode_clip("red")


# --- servers --------------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = Gate(folder)
    yield gate
    gate.open()


@pytest.fixture
def gated_job(gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a decoder's job that waits at the gate before each clip."""
    name = f"gated_job_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(
        "from pathlib import Path\n"
        "from clip import sample_clip\n"
        "from tests.service.gate import Gate\n"
        "def sample(file, spec, limits):\n"
        f"    Gate(Path({str(tmp_path / 'gate')!r})).pass_through()\n"
        "    return sample_clip(file, spec, limits)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:sample"


@pytest.fixture
def gated_decoders(gated_job: str) -> Collaborators:
    """One decoder, which waits at the gate before each clip."""

    def build(settings: Settings, metrics: Metrics) -> DecodePool:
        return DecodePool(
            workers=1, limits=Limits(), timeout_s=settings.decode_timeout_s, job=gated_job
        )

    return Collaborators(build_decoders=build)


@pytest.fixture
def gated_models(gate: Gate) -> Collaborators:
    """Models that wait at the gate before each batch."""

    def load(settings: Settings) -> ModelRegistry:
        registry = load_models(settings)
        for model in registry:
            run = model.run

            def run_later(frames: Frames, run: RunBatch = run) -> Sequence[Outcome]:
                gate.pass_through()
                return run(frames)

            model.run = run_later  # type: ignore[method-assign]
        return registry

    return Collaborators(load_models=load)


@pytest.fixture
def start_service(tmp_path: Path, models_dir: Path) -> StartService:
    """start_service(collaborators, **settings): a service of one's own, as a context manager."""

    def start(
        collaborators: Collaborators = DEFAULTS, **changes: Any
    ) -> AbstractContextManager[LiveService]:
        folders = {"spool_dir": tmp_path / "spool", "models_dir": models_dir}
        return run_service(collaborators=collaborators, **(folders | changes))

    return start


@pytest.fixture(scope="session")
def start_shared() -> StartService:
    """start_shared(spool_dir, models_dir, **settings): a service for more than one test."""
    return run_service


@pytest.fixture(scope="session")
def shared_service(
    tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[LiveService]:
    with run_service(tmp_path_factory.mktemp("spool"), models_dir) as service:
        yield service


@pytest.fixture
def unharmed(red_clip: bytes) -> Unharmed:
    """with unharmed(service): the faults; at the end it answers as before and holds nothing."""

    def expect(service: LiveService) -> AbstractContextManager[None]:
        return expect_unharmed(service, red_clip)

    return expect


@pytest.fixture
def service(shared_service: LiveService, unharmed: Unharmed) -> Iterator[LiveService]:
    """The service that tests share. After each it answers a good clip as ever and holds nothing."""
    with unharmed(shared_service):
        yield shared_service


@pytest.fixture
def launch(models_dir: Path, tmp_path: Path) -> Launch:
    """launch(HAR_X=..., max_files=...): the service in a process of its own, ready."""

    def start(**variables: Any) -> AbstractContextManager[ServiceProcess]:
        return launch_service(models_dir, tmp_path, **variables)

    return start


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    """wait_for(condition): wait until it holds, and fail the test if it does not within a bound."""
    return wait_until


@pytest.fixture(scope="session")
def expect_problem() -> ExpectProblem:
    """expect_problem(response, status, code) -> the problem, checked to be complete."""

    def expect(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = response.json()
        assert set(problem) == {"type", "title", "status", "code", "detail", "request_id"}
        assert (problem["status"], problem["code"]) == (status, code)
        assert problem["request_id"] == response.headers["x-request-id"]
        return problem

    return expect


@pytest.fixture(scope="session")
def run_async() -> RunAsync:
    """run_async(coroutine function): run it in an event loop of its own, within a bound."""

    def run(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(asyncio.wait_for(scenario(), WAIT_S))

    return run
