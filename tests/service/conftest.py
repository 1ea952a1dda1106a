"""Real small things to test the service with: ONNX models, clips and servers on 127.0.0.1.

The models tell a clip's colour: they average each channel over the whole clip and put a softmax on
top. What a test's clip shows is therefore what the service must answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clip import ClipSpec, Limits
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelManifest
from service.app import create_app
from service.batching import Frames, Outcome, RunBatch
from service.decoding import DecodePool
from service.metrics import Metrics
from service.registry import ModelRegistry
from service.runtime import Collaborators, Runtime, load_models
from service.server import Server, open_listener
from service.settings import Settings
from tests.service.gate import WAIT_S, Gate
from tests.service.process import ServiceProcess, launch_service

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
MAX_UPLOAD_BYTES = 256 * 1024
DEFAULTS = Collaborators()

BuildModel = Callable[..., tuple[ModelManifest, bytes]]
PublishModel = Callable[..., Path]
MakeClip = Callable[..., bytes]
StartService = Callable[..., AbstractContextManager["LiveService"]]
Launch = Callable[..., AbstractContextManager[ServiceProcess]]
Unharmed = Callable[["LiveService"], AbstractContextManager[None]]
WaitFor = Callable[[Callable[[], object]], None]
ExpectProblem = Callable[[httpx.Response, int, str], dict[str, Any]]
RunAsync = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def wait_until(condition: Callable[[], object], *, within_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds; fail the test if it does not within the bound."""
    give_up_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_s:
            pytest.fail(f"still not so after {within_s} s: {condition}")
        threading.Event().wait(0.005)


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Settings are what the tests say, whatever the shell that runs them has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"HAR_{name.upper()}", raising=False)
        yield


# --- models ---------------------------------------------------------------------------------------


def make_manifest(name: str = "colour", version: int = 1, **changes: Any) -> ModelManifest:
    manifest = ModelManifest(
        name=name,
        version=version,
        opset=18,
        ir_version=10,
        classes=tuple(COLOURS),
        clip_spec=ClipSpec(),
        training={
            "dataset": "three colours",
            "split": "none",
            "seed": 0,
            "counts": {},
            "libraries": {},
            "git_commit": "0" * 40,
            "config": {},
        },
        metrics={"test": {"accuracy": 1.0}},
        parity={"max_difference": 0.0},
    )
    return replace(manifest, **changes)


def build_colour_model(manifest: ModelManifest, *, flaw: str | None = None) -> onnx.ModelProto:
    """frames -> mean of each channel -> softmax, as `manifest` announces it.

    Args:
        flaw: what to get wrong. "nan": a clip of pure black gives NaN. "nan_white": one of pure
            white does. "inf", "negative": so are the outputs. "raise": a clip of pure
            white makes the whole run fail. "unnormalised": the outputs do not sum to 1. "short":
            there is only one row of output, however many clips. Others change the graph's
            signature: "input_name", "float_input", "fixed_batch".
    """
    frames_name = "images" if flaw == "input_name" else INPUT_NAME
    nodes = [
        helper.make_node("Cast", [frames_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
    ]
    initializers = [numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")]
    features = "mean"
    if flaw == "nan":
        nodes.append(helper.make_node("Div", ["mean", "mean"], ["one_or_nan"]))
        nodes.append(helper.make_node("Mul", ["mean", "one_or_nan"], ["flawed"]))
        features = "flawed"
    if flaw == "nan_white":
        initializers.append(numpy_helper.from_array(np.array(254.9, np.float32), "nearly_white"))
        nodes.append(helper.make_node("Sub", ["nearly_white", "mean"], ["darkness"]))
        nodes.append(helper.make_node("Sqrt", ["darkness"], ["root"]))
        nodes.append(helper.make_node("Div", ["root", "root"], ["one_or_nan"]))
        nodes.append(helper.make_node("Mul", ["mean", "one_or_nan"], ["flawed"]))
        features = "flawed"
    if flaw == "raise":
        # Gather has one row to choose from; a mean of 255 asks for the next, which is not there.
        initializers.append(numpy_helper.from_array(np.array(255.0, np.float32), "white"))
        initializers.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "table"))
        nodes.append(helper.make_node("ReduceMin", ["mean", "last"], ["least"], keepdims=0))
        initializers.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
        nodes.append(helper.make_node("Div", ["least", "white"], ["whiteness"]))
        nodes.append(helper.make_node("Cast", ["whiteness"], ["row"], to=TensorProto.INT64))
        nodes.append(helper.make_node("Gather", ["table", "row"], ["zero"], axis=0))
        nodes.append(helper.make_node("Add", ["mean", "zero"], ["flawed"]))
        features = "flawed"
    # The same logits whatever the number of classes: class i looks at channel i modulo 3.
    weights = np.zeros((3, len(manifest.classes)), np.float32)
    for column in range(len(manifest.classes)):
        weights[column % 3, column] = 0.02
    initializers.append(numpy_helper.from_array(weights, "weights"))
    nodes.append(helper.make_node("MatMul", [features, "weights"], ["logits"]))
    last = "Identity" if flaw == "unnormalised" else "Softmax"
    answers = "answers" if flaw in {"short", "inf", "negative"} else OUTPUT_NAME
    nodes.append(helper.make_node(last, ["logits"], [answers]))
    if flaw in {"inf", "negative"}:
        factors = np.ones(len(manifest.classes), np.float32)
        factors[0] = np.inf if flaw == "inf" else -1
        initializers.append(numpy_helper.from_array(factors, "factors"))
        nodes.append(helper.make_node("Mul", [answers, "factors"], [OUTPUT_NAME]))
    if flaw == "short":
        for name, value in (("start", 0), ("end", 1)):
            initializers.append(numpy_helper.from_array(np.array([value], np.int64), name))
        nodes.append(helper.make_node("Slice", [answers, "start", "end", "start"], [OUTPUT_NAME]))
    batch = 1 if flaw == "fixed_batch" else "N"
    graph = helper.make_graph(
        nodes,
        "colour",
        [
            helper.make_tensor_value_info(
                frames_name,
                TensorProto.FLOAT if flaw == "float_input" else TensorProto.UINT8,
                [batch, *manifest.clip_spec.shape],
            )
        ],
        [
            helper.make_tensor_value_info(
                OUTPUT_NAME, TensorProto.FLOAT, [batch, len(manifest.classes)]
            )
        ],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", manifest.opset)],
        ir_version=manifest.ir_version,
    )
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    return model


def seal(manifest: ModelManifest, content: bytes) -> ModelManifest:
    return replace(manifest, sha256=hashlib.sha256(content).hexdigest())


def write_model(models_dir: Path, manifest: ModelManifest, content: bytes) -> Path:
    folder = models_dir / manifest.name / str(manifest.version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(seal(manifest, content).to_json())
    return folder


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


def encode_clip(
    colour: str | tuple[int, int, int] = "red",
    *,
    frames: int = 30,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "mpeg4",
) -> bytes:
    """A clip of one colour, 10 frames a second."""
    rgb = COLOURS[colour] if isinstance(colour, str) else colour
    width, height = size
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = np.full((height, width, 3), rgb, np.uint8)
        for _ in range(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.fixture(scope="session")
def make_clip() -> MakeClip:
    """make_clip("red", frames=30, size=(64, 48), container="mp4", codec="mpeg4") -> bytes."""
    return encode_clip


@pytest.fixture(scope="session")
def red_clip() -> bytes:
    return encode_clip("red")


# --- servers --------------------------------------------------------------------------------------


@dataclass
class LiveService:
    """A service that listens on 127.0.0.1, in a thread of this process."""

    runtime: Runtime
    server: Server
    port: int
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def predict(self, content: bytes, **query: Any) -> httpx.Response:
        """Send a clip as multipart."""
        return self.client.post("/predict", params=query, files={"file": ("c.mp4", content)})

    def connect(self) -> socket.socket:
        """A raw connection, for requests that no client library would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    @staticmethod
    def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
        """(status, headers by lower-case name, parsed body) of one answer on a raw connection."""
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, json.loads(response.read())

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the service's metrics; 0 where there is none yet."""
        self.settle()
        return self.runtime.metrics.registry.get_sample_value(name, labels) or 0.0

    def settle(self) -> None:
        """Return when what belongs to the answers so far (metrics, log lines) has happened.

        An answer reaches its client a moment before its request is measured; the event loop does
        both before it reads another request.
        """
        self.client.get("/health/live")

    def open_files(self) -> int:
        return len(list(Path("/proc/self/fd").iterdir()))


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


@contextmanager
def run_service(
    spool_dir: Path,
    models_dir: Path,
    collaborators: Collaborators = DEFAULTS,
    *,
    await_ready: bool = True,
    **changes: Any,
) -> Iterator[LiveService]:
    """Start a service, wait until it is ready, and stop it at the end."""
    values: dict[str, Any] = {
        "port": 0,
        "models_dir": models_dir,
        "spool_dir": spool_dir,
        "device": "cpu",
        "intra_op_threads": 1,
        "decoders": 2,
        "max_upload_bytes": MAX_UPLOAD_BYTES,
    }
    settings = Settings(**(values | changes))
    settled = threading.Event()
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        settled.set()

    def be_ready(registry: ModelRegistry) -> None:
        settled.set()

    app = create_app(settings, replace(collaborators, on_ready=be_ready, on_failure=fail))
    server = Server(app, shutdown_grace_s=5)
    with open_listener(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            if await_ready:
                assert settled.wait(WAIT_S)
                assert not failures, failures
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
                yield LiveService(app.state.runtime, server, port, client)
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive()


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


@contextmanager
def expect_unharmed(service: LiveService, clip: bytes) -> Iterator[None]:
    """Whatever is done to it, the service then answers a clip as before, and nothing is left."""

    def count_threads() -> int:
        # asyncio's and AnyIO's pools for blocking calls grow as they like, up to a limit.
        pools = ("asyncio_", "AnyIO ")
        return sum(not thread.name.startswith(pools) for thread in threading.enumerate())

    before = service.predict(clip).json()
    open_files, threads = service.open_files(), count_threads()
    yield
    after = service.predict(clip).json()
    assert after["probabilities"] == before["probabilities"]
    assert not list(service.runtime.spool.folder.iterdir())
    wait_until(lambda: service.metric("har_requests_in_flight") == 0)
    wait_until(lambda: service.open_files() <= open_files)
    wait_until(lambda: count_threads() <= threads)


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
