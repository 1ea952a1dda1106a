"""docker/proxy/nginx.conf, docker-compose.yml's own proxy, with the real nginx and service."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.deploy.answers import await_request, expect_problem
from tests.deploy.nginx import PROGRAM, WAIT_S, await_listening, find_free_port
from tests.service.process import ServiceProcess, launch_service

CONFIGURATION = Path(__file__).parents[2] / "docker" / "proxy" / "nginx.conf"
ELSEWHERE = "127.0.0.2"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")


@contextmanager
def run_proxy(folder: Path, service_port: int) -> Iterator[httpx.Client]:
    """Start it in front of a port of this machine; a client that comes from another address."""
    folder.mkdir()
    port = find_free_port()
    text = CONFIGURATION.read_text(encoding="utf-8")
    for old, new in {
        "/tmp/": f"{folder}/",
        "listen 8080": f"listen 127.0.0.1:{port}",
        "service:8000": f"127.0.0.1:{service_port}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    # Root's workers are another user's, who could not reach a test's folder.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    configuration, errors = folder / "nginx.conf", folder / "error.log"
    configuration.write_text(user + text, encoding="utf-8")
    command = [str(PROGRAM), "-c", str(configuration), "-e", str(errors), "-g", "daemon off;"]
    transport = httpx.HTTPTransport(local_address=ELSEWHERE)
    with (
        subprocess.Popen(command) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=WAIT_S
        ) as client,
    ):
        try:
            await_listening(process, port, errors)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)


@pytest.fixture(scope="module")
def service(lrcn_alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with launch_service(lrcn_alone, folder, HAR_TRUSTED_PROXIES="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(
    service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    with run_proxy(tmp_path_factory.mktemp("proxy") / "nginx", service.port) as client:
        yield client


def test_a_clip_is_classified_and_the_service_knows_whose_it_was(
    proxy: httpx.Client, service: ServiceProcess, clip: bytes
) -> None:
    lie = {"X-Forwarded-For": "203.0.113.7", "X-Request-ID": "mine"}
    answer = proxy.post("/predict", files={"file": clip}, headers=lie)
    assert answer.status_code == 200, answer.text
    line = await_request(service, "mine")
    assert (line["client"], line["scheme"]) == (ELSEWHERE, "http")


def test_the_page_and_all_that_it_leads_to_pass(proxy: httpx.Client) -> None:
    references = re.findall(r"""(?:src|href)="([^"#:]+)["']""", proxy.get("/").text)
    assert len(references) >= 4
    for reference in references:
        assert proxy.get(f"/{reference}").status_code == 200, reference


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/metrics"), ("GET", "/%6detrics"), ("POST", "/models/reload")],
)
def test_what_is_not_for_everyone_is_404(proxy: httpx.Client, method: str, path: str) -> None:
    expect_problem(proxy.request(method, path), "not_found")


def test_without_the_service_it_says_so_as_the_service_would(tmp_path: Path) -> None:
    with run_proxy(tmp_path / "nginx", find_free_port()) as client:
        answer = client.post("/predict", files={"file": b"video"})
    expect_problem(answer, "not_ready")
    assert answer.headers["retry-after"] == "5"
