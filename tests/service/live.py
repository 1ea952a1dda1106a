"""The service on 127.0.0.1, in a thread of the tests' process."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.registry import ModelRegistry
from service.runtime import Collaborators, Runtime
from service.server import Server, open_listener
from service.settings import Settings
from tests.open_files import count_open_files
from tests.service.gate import WAIT_S

MAX_UPLOAD_BYTES = 256 * 1024
DEFAULTS = Collaborators()


def wait_until(condition: Callable[[], object], *, within_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds; fail the test if it does not within the bound."""
    give_up_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_s:
            pytest.fail(f"still not so after {within_s} s: {condition}")
        threading.Event().wait(0.005)


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

    def count_predicts(self, code: str, model: str = "lrcn") -> float:
        """How many requests to /predict have ended so."""
        labels = {"route": "/predict", "model": model, "code": code}
        return self.metric("har_request_duration_seconds_count", **labels)

    def settle(self) -> None:
        """Return when what belongs to the answers so far (metrics, log lines) has happened.

        An answer reaches its client a moment before its request is measured; the event loop does
        both before it reads another request.
        """
        self.client.get("/health/live")


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


@contextmanager
def expect_unharmed(service: LiveService, clip: bytes) -> Iterator[None]:
    """Whatever is done to it, the service then answers a clip as before, and nothing is left."""

    def count_threads() -> int:
        # asyncio's and AnyIO's pools for blocking calls grow as they like, up to a limit.
        pools = ("asyncio_", "AnyIO ")
        return sum(not thread.name.startswith(pools) for thread in threading.enumerate())

    before = service.predict(clip).json()
    open_files, threads = count_open_files(), count_threads()
    yield
    after = service.predict(clip).json()
    assert after["probabilities"] == before["probabilities"]
    assert not list(service.runtime.spool.folder.iterdir())
    wait_until(lambda: service.metric("har_requests_in_flight") == 0)
    wait_until(lambda: count_open_files() <= open_files)
    wait_until(lambda: count_threads() <= threads)
