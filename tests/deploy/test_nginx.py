"""docker/nginx/: the real nginx in front of the real service."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from service.errors import KINDS
from service.settings import Settings
from service.upload import MAX_ENVELOPE_BYTES
from tests.deploy.answers import CLOSED, ask_raw, await_request, expect_problem, read_answer
from tests.deploy.nginx import CONFIGURATION, WAIT_S, Nginx, needs_nginx, run_nginx
from tests.service.process import ServiceProcess, launch_service
from tests.service.wire import request_head

MAX_UPLOAD_BYTES = 512 * 1024
#: From here the tests' clients come where it matters: the proxy's connections are from 127.0.0.1.
ELSEWHERE = "127.0.0.2"
STRANGER = "127.0.0.3"

#: The beginning of an upload, of which no more comes.
STALLED = request_head(Content_Type="video/mp4", Content_Length="9999") + b"\0\0\0\x18ftypmp42"

StartNginx = Callable[..., AbstractContextManager[Nginx]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, lrcn_alone: Path) -> Iterator[ServiceProcess]:
    with launch_service(
        lrcn_alone,
        tmp_path_factory.mktemp("service"),
        HAR_TRUSTED_PROXIES="127.0.0.1",
        HAR_MAX_UPLOAD_BYTES=MAX_UPLOAD_BYTES,
        HAR_UPLOAD_IDLE_TIMEOUT_S=8,  # below nginx's, and time enough for the tests' other clients
    ) as process:
        yield process


@pytest.fixture
def start_nginx(service: ServiceProcess, tmp_path: Path) -> StartNginx:
    """start_nginx({"burst=20": "burst=2"}): nginx in front of the service, with that changed."""

    def start(changes: Mapping[str, str] | None = None) -> AbstractContextManager[Nginx]:
        return run_nginx(tmp_path / "nginx", service.port, changes=changes)

    return start


@pytest.fixture(scope="module")
def nginx(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """As it is delivered, but for the most a body may have, which is above the service's."""
    folder = tmp_path_factory.mktemp("nginx") / "nginx"
    with run_nginx(folder, service.port, changes={"101m": "1m"}) as running:
        yield running


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, without a word, before the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except (ConnectionResetError, ssl.SSLEOFError):
        return True


# --- the files alone ------------------------------------------------------------------------------


def setting_of(file: str, directive: str) -> str:
    found = re.findall(rf"^\s*{directive} (\S+);", (CONFIGURATION / file).read_text(), re.MULTILINE)
    assert len(found) == 1, directive
    return str(found[0])


def test_the_services_own_limits_are_reached_before_nginxs() -> None:
    defaults = Settings()
    body_bytes = int(setting_of("limits.conf", "client_max_body_size").removesuffix("m")) * 2**20
    assert body_bytes > defaults.max_upload_bytes + MAX_ENVELOPE_BYTES
    for file, directive, own_s in (
        ("server.conf", "client_body_timeout", defaults.upload_idle_timeout_s),
        ("proxy.conf", "proxy_read_timeout", defaults.request_timeout_s),
        ("proxy.conf", "proxy_send_timeout", defaults.request_timeout_s),
    ):
        assert int(setting_of(file, directive).removesuffix("s")) > own_s


def test_every_refusal_of_nginx_is_one_of_the_services_kinds() -> None:
    answers = re.findall(r"return (\d+) '(\{.*\})';", (CONFIGURATION / "server.conf").read_text())
    assert len(answers) == 8
    for status, text in answers:
        problem = json.loads(text)
        kind = KINDS[problem["code"]]
        assert (int(status), problem["status"], problem["title"]) == (
            kind.status,
            kind.status,
            kind.title,
        )


# --- what passes ----------------------------------------------------------------------------------


@needs_nginx
def test_a_clip_is_classified_over_tls_and_both_logs_know_the_client(
    nginx: Nginx, service: ServiceProcess, clip: bytes
) -> None:
    lies = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http", "Forwarded": "for=x"}
    with nginx.client(ELSEWHERE) as client:
        answer = client.post(
            "/predict", files={"file": clip}, headers={**lies, "X-Request-ID": "mine-1"}
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == "lrcn"
    assert (answer.headers["x-request-id"], answer.headers["server"]) == ("mine-1", "nginx")
    own = await_request(service, "mine-1")
    assert (own["client"], own["scheme"]) == (ELSEWHERE, "https")
    line = nginx.await_log_line("mine-1")
    assert (line["client"], line["path"], line["status"]) == (ELSEWHERE, "/predict", "200")
    assert line["received_bytes"] > len(clip)


@needs_nginx
def test_a_query_is_in_no_log(nginx: Nginx, service: ServiceProcess, clip: bytes) -> None:
    secret = "a-key-in-the-wrong-place"
    with nginx.client() as client:
        answer = client.post(
            f"/predict?api_key={secret}",
            files={"file": clip},
            headers={"X-Request-ID": "mine-2", "X-API-Key": secret},
        )
    expect_problem(answer, "invalid_parameter")
    assert nginx.await_log_line("mine-2")["path"] == "/predict"
    assert secret not in nginx.log.read_text()
    await_request(service, "mine-2")
    assert secret not in service.log.read_text()


@needs_nginx
def test_an_id_that_is_none_is_replaced_by_one_that_all_logs_have(
    nginx: Nginx, service: ServiceProcess
) -> None:
    with nginx.client() as client:
        answer = client.get("/models", headers={"X-Request-ID": "two words"})
    request_id = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert nginx.await_log_line(request_id)["service_status"] == "200"
    assert await_request(service, request_id)["route"] == "/models"


@needs_nginx
def test_plain_http_is_sent_to_tls(nginx: Nginx) -> None:
    for port in (nginx.http_port, nginx.https_port):
        answer = httpx.post(f"http://127.0.0.1:{port}/predict?model=lrcn", timeout=WAIT_S)
        assert answer.status_code == 308
        assert answer.headers["location"] == f"{nginx.url}/predict?model=lrcn"


# --- a body is passed on as it comes --------------------------------------------------------------


@needs_nginx
@pytest.mark.parametrize(
    ("path", "code"), [("/predict?model=none", "unknown_model"), ("/predict", "unknown_container")]
)
def test_a_refusal_comes_while_the_body_is_still_to_be_sent(
    nginx: Nginx, path: str, code: str
) -> None:
    with nginx.connect() as connection:
        connection.sendall(request_head(path, Content_Type="video/mp4", Content_Length="500000"))
        connection.sendall(b"no video " * 400)
        expect_problem(read_answer(connection), code)


@needs_nginx
def test_nginx_says_continue_before_the_service_is_asked(nginx: Nginx) -> None:
    with nginx.connect() as connection:
        connection.sendall(
            request_head(
                "/predict?model=none",
                Content_Type="video/mp4",
                Content_Length="500000",
                Expect="100-continue",
            )
        )
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        expect_problem(read_answer(connection), "unknown_model")


@needs_nginx
def test_a_client_that_leaves_is_gone_for_the_service_too(
    nginx: Nginx, service: ServiceProcess
) -> None:
    with nginx.connect() as leaving:
        leaving.sendall(STALLED.replace(b"Host: test", b"Host: test\r\nX-Request-ID: leaves"))
        # The other one is the scrape itself.
        service.await_metric("har_requests_in_flight", 2)
    service.await_metric("har_requests_in_flight", 1)
    assert await_request(service, "leaves")["outcome"] == "client_gone"


# --- limits ---------------------------------------------------------------------------------------


@needs_nginx
def test_a_large_body_gets_the_services_413_and_a_larger_one_nginxs(nginx: Nginx) -> None:
    details = []
    for length in (700_000, 2_000_000):
        with nginx.connect() as connection:
            connection.sendall(
                request_head(
                    Content_Type="video/mp4", Content_Length=str(length), Expect="100-continue"
                )
            )
            details.append(expect_problem(read_answer(connection), "upload_too_large")["detail"])
    assert str(MAX_UPLOAD_BYTES) in details[0]
    assert str(MAX_UPLOAD_BYTES) not in details[1]


@needs_nginx
def test_what_nginx_refuses_itself_is_never_asked_for(nginx: Nginx) -> None:
    with nginx.connect() as connection:
        connection.sendall(request_head(Content_Length="2000000", Expect="100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 413"


@needs_nginx
def test_a_stalled_upload_gets_the_services_408(nginx: Nginx, clip: bytes) -> None:
    with nginx.connect(ELSEWHERE) as stalled:
        stalled.sendall(
            request_head(Content_Type="video/mp4", Content_Length=str(len(clip))) + clip[:2000]
        )
        expect_problem(read_answer(stalled), "upload_timeout")


@needs_nginx
@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ({"client_header_timeout 10s": "client_header_timeout 500ms"}, request_head()[:-2]),
        ({"client_body_timeout 15s": "client_body_timeout 500ms"}, STALLED),
    ],
    ids=["headers", "body"],
)
def test_a_slow_client_is_cut_off_and_the_others_are_answered(
    start_nginx: StartNginx,
    service: ServiceProcess,
    clip: bytes,
    change: Mapping[str, str],
    sent: bytes,
) -> None:
    with start_nginx(change) as nginx, nginx.client() as client:
        with nginx.connect(ELSEWHERE) as slow:
            slow.sendall(sent)
            assert client.post("/predict", files={"file": clip}).status_code == 200
            assert is_closed(slow)
        # The one is the scrape itself.
        service.await_metric("har_requests_in_flight", 1)


@needs_nginx
def test_a_client_above_its_rate_gets_429_and_the_others_are_answered(
    start_nginx: StartNginx,
) -> None:
    change = {"zone=har_predict:10m rate=10r/s": "zone=har_predict:10m rate=1r/m"}
    with start_nginx(change | {"burst=20": "burst=2"}) as nginx:
        with nginx.client(ELSEWHERE) as client:
            answers = [client.post("/predict?model=none") for _ in range(4)]
            assert client.get("/health/ready").status_code == 200
        for answer in answers[:3]:
            expect_problem(answer, "unknown_model")
        expect_problem(answers[3], "overloaded")
        assert answers[3].headers["retry-after"] == "1"
        line = nginx.await_log_line(answers[3].headers["x-request-id"])
        assert (line["status"], line["service_status"]) == ("429", "")
        with nginx.client(STRANGER) as client:
            expect_problem(client.post("/predict?model=none"), "unknown_model")


@needs_nginx
def test_a_client_has_so_many_requests_at_one_time(
    start_nginx: StartNginx, service: ServiceProcess
) -> None:
    change = {"limit_conn har_client 16": "limit_conn har_client 1"}
    with start_nginx(change) as nginx, nginx.connect(ELSEWHERE) as busy:
        busy.sendall(STALLED)
        # The other one is the scrape itself.
        service.await_metric("har_requests_in_flight", 2)
        with nginx.client(ELSEWHERE) as client:
            refused = client.get("/models")
        expect_problem(refused, "overloaded")
        assert refused.headers["retry-after"] == "1"
        with nginx.client(STRANGER) as client:
            assert client.get("/models").status_code == 200
    service.await_metric("har_requests_in_flight", 1)


@needs_nginx
@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        request_head("/models", "GET", X_Long="x" * 40_000),
        b"\0\0\r\n\r\n",
    ],
    ids=["no host", "long header", "no http"],
)
def test_what_is_no_request_is_answered_as_a_problem(nginx: Nginx, sent: bytes) -> None:
    with nginx.connect() as connection:
        connection.sendall(sent)
        expect_problem(read_answer(connection), "bad_request")


@needs_nginx
def test_without_the_service_nginx_says_so_as_the_service_would(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        with run_nginx(tmp_path / "nginx", port) as nginx, nginx.client() as client:
            answer = client.post("/predict", files={"file": b"video"})
    expect_problem(answer, "not_ready")
    assert answer.headers["retry-after"] == "5"


# --- what is not for everyone ---------------------------------------------------------------------


@needs_nginx
@pytest.mark.parametrize("path", CLOSED)
def test_what_is_not_for_everyone_is_404(nginx: Nginx, service: ServiceProcess, path: str) -> None:
    expect_problem(ask_raw(nginx, path), "not_found")
    assert "har_requests_in_flight" in httpx.get(f"{service.url}/metrics", timeout=WAIT_S).text
