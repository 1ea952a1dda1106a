"""docker/nginx/site-plain.conf, docker-compose.yml's own proxy, with the real nginx and service."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deploy.answers import CLOSED, ask_raw, await_request, expect_problem, read_answer
from tests.deploy.nginx import PLAIN, WAIT_S, Nginx, find_free_port, needs_nginx, run_nginx
from tests.service.process import ServiceProcess, launch_service
from tests.service.wire import request_head

#: From here the tests' clients come: the proxy's connections are from 127.0.0.1.
ELSEWHERE = "127.0.0.2"

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def service(lrcn_alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with launch_service(lrcn_alone, folder, HAR_TRUSTED_PROXIES="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with run_nginx(tmp_path_factory.mktemp("proxy") / "nginx", service.port, PLAIN) as running:
        yield running


def test_a_clip_is_classified_and_the_service_knows_whose_it_was(
    proxy: Nginx, service: ServiceProcess, clip: bytes
) -> None:
    lies = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "Forwarded": "for=x"}
    with proxy.client(ELSEWHERE) as client:
        answer = client.post(
            "/predict", files={"file": clip}, headers={**lies, "X-Request-ID": "mine"}
        )
    assert answer.status_code == 200, answer.text
    line = await_request(service, "mine")
    assert (line["client"], line["scheme"]) == (ELSEWHERE, "http")


def test_the_page_and_all_that_it_leads_to_pass(proxy: Nginx) -> None:
    with proxy.client() as client:
        references = re.findall(r"""(?:src|href)="([^"#:]+)["']""", client.get("/").text)
        assert len(references) >= 4
        for reference in references:
            assert client.get(f"/{reference}").status_code == 200, reference


def test_one_address_may_have_as_many_requests_as_the_service_takes(proxy: Nginx) -> None:
    """All clients may have one here: beyond the other sites' 10 a second and 50."""
    with proxy.client() as client:
        assert {client.post("/predict?model=none").status_code for _ in range(40)} == {404}
        assert {client.get("/models").status_code for _ in range(250)} == {200}
    assert not proxy.log.exists()


def test_a_refusal_comes_while_a_body_above_nginxs_own_limits_is_still_to_be_sent(
    proxy: Nginx,
) -> None:
    with proxy.connect() as connection:
        connection.sendall(request_head(Content_Type="video/mp4", Content_Length="500000000"))
        problem = expect_problem(read_answer(connection), "upload_too_large")
    assert str(100 * 2**20) in problem["detail"], "the service's own"


def test_a_refusal_comes_through_however_much_of_the_body_is_on_its_way(proxy: Nginx) -> None:
    """The service must not close upon the rest of it: nginx would see a reset and say 503."""
    with proxy.client() as client:
        for _ in range(12):
            answer = client.post(
                "/predict", content=b"no video " * 1_000_000, headers={"Content-Type": "video/mp4"}
            )
            assert (answer.status_code, answer.json()["code"]) == (415, "unknown_container")


@pytest.mark.parametrize("path", CLOSED)
def test_what_is_not_for_everyone_is_404(proxy: Nginx, path: str) -> None:
    expect_problem(ask_raw(proxy, path), "not_found")


def test_a_reload_is_not_for_everyone(proxy: Nginx) -> None:
    expect_problem(ask_raw(proxy, "/models/reload", "POST"), "not_found")


def test_without_the_service_it_says_so_as_the_service_would(tmp_path: Path) -> None:
    with run_nginx(tmp_path / "nginx", find_free_port(), PLAIN) as nginx, nginx.client() as client:
        answer = client.post("/predict", files={"file": b"video"})
    expect_problem(answer, "not_ready")
    assert answer.headers["retry-after"] == "5"


class TellAddress(BaseHTTPRequestHandler):
    """Answers with the address that was asked."""

    def do_GET(self) -> None:
        address = str(self.connection.getsockname()[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(address)))
        self.end_headers()
        self.wfile.write(address)

    def log_message(self, *_: object) -> None:
        """Into no test's output."""


@contextmanager
def serve_addresses(address: str, port: int = 0) -> Iterator[int]:
    """A server that answers with its address; its port."""
    with ThreadingHTTPServer((address, port), TellAddress) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(WAIT_S)


class Names:
    """A name server that has one address for every name."""

    def __init__(self, address: str) -> None:
        self.address = address

    def answer(self, listener: socket.socket) -> None:
        """Until the empty packet."""
        while True:
            query, client = listener.recvfrom(512)
            if not query:
                return
            # RFC 1035: the query's id and question, and one record (A, IN, a day to live) of it.
            head = query[:2] + bytes.fromhex("8180 0001 0001 0000 0000")
            record = bytes.fromhex("c00c 0001 0001 00015180 0004") + socket.inet_aton(self.address)
            listener.sendto(head + query[12:] + record, client)

    @contextmanager
    def serve(self) -> Iterator[int]:
        """Its port."""
        with socket.socket(type=socket.SOCK_DGRAM) as listener:
            listener.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=self.answer, args=(listener,))
            thread.start()
            try:
                yield listener.getsockname()[1]
            finally:
                with socket.socket(type=socket.SOCK_DGRAM) as ending:
                    ending.sendto(b"", listener.getsockname())
                thread.join(WAIT_S)


def test_a_new_container_of_the_service_is_found_at_its_new_address(tmp_path: Path) -> None:
    old, new = "127.0.0.1", "127.0.0.3"
    names = Names(old)
    with (
        serve_addresses(old) as port,
        serve_addresses(new, port),
        names.serve() as names_port,
    ):
        changes = {
            f"har_service 127.0.0.1:{port}": f"har_service name:{port}",
            "resolver 127.0.0.11 valid=5s": f"resolver 127.0.0.1:{names_port} valid=1s",
        }
        with (
            run_nginx(tmp_path / "nginx", port, PLAIN, changes) as nginx,
            nginx.client() as client,
        ):
            assert client.get("/").text == old
            names.address = new
            give_up_s = time.monotonic() + WAIT_S
            while client.get("/").text != new:
                assert time.monotonic() < give_up_s
                time.sleep(0.05)
