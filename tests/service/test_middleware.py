"""RequestMiddleware: every request has an id, a log line, a measurement and an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import subprocess
import threading

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from clip import Limits
from service.decoding import DecodePool
from service.metrics import STAGES, Metrics
from service.middleware import RequestMiddleware
from service.runtime import Collaborators
from tests.service.decoder_jobs import VIDEO_BEGINNING
from tests.service.gate import WAIT_S
from tests.service.wire import request_head


@pytest.mark.parametrize("request_id", ["abc-123", "A.b_c", "x" * 64])
def test_a_well_formed_request_id_comes_back(service, request_id: str) -> None:
    response = service.client.get("/health/live", headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", 'a"b', "<script>", "a\tb", "a;b"])
def test_any_other_is_replaced(service, request_id: str) -> None:
    response = service.client.get("/health/live", headers={"X-Request-ID": request_id})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_each_request_has_an_id_of_its_own(service) -> None:
    ids = {service.client.get("/models").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


def test_the_problem_carries_the_id(service, expect_problem) -> None:
    response = service.client.get("/nothing", headers={"X-Request-ID": "mine"})
    assert expect_problem(response, 404, "not_found")["request_id"] == "mine"


def test_an_unexpected_error_is_500_and_keeps_its_words_to_the_log(
    start_service, expect_problem, caplog
) -> None:
    broken = Collaborators(
        build_decoders=lambda settings, metrics: DecodePool(
            workers=1, limits=Limits(), timeout_s=1, job="tests.service.decoder_jobs:misbehave"
        )
    )
    with start_service(broken) as service:
        problem = expect_problem(service.predict(VIDEO_BEGINNING + b"bug"), 500, "internal_error")
        assert "secret" not in str(problem)
        assert service.metric("har_failures_total", reason="internal_error") == 1
    (record,) = (record for record in caplog.records if record.exc_info)
    assert problem["request_id"] in record.getMessage()
    assert "/secret/path" in caplog.text


def test_a_request_that_a_stop_cut_off_is_503_and_counted_as_aborted(run_async, caplog) -> None:
    caplog.set_level(logging.INFO, "service.middleware")
    metrics = Metrics()
    sent: list[Message] = []

    async def scenario() -> None:
        begun = asyncio.Event()

        async def work(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def receive() -> Message:
            raise AssertionError("nobody reads")

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": []}
        answering = asyncio.create_task(
            RequestMiddleware(work, metrics=metrics)(scope, receive, send)
        )
        await begun.wait()
        answering.cancel()
        await answering

    run_async(scenario)
    start, body = sent
    assert start["status"] == 503
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["code"] == "stopping"
    value = metrics.registry.get_sample_value
    labels = {"route": "unmatched", "model": "none", "code": "aborted"}
    assert value("har_request_duration_seconds_count", labels) == 1
    assert value("har_rejected_total", {"reason": "stopping"}) == 1
    assert value("har_requests_in_flight") == 0
    (record,) = caplog.records
    assert record.fields["outcome"] == "stopping"


def test_the_log_line_holds_none_of_the_clients_text(service, red_clip, caplog) -> None:
    service.settle()
    caplog.set_level(logging.INFO, "service.middleware")
    service.client.post("/predict?model=evil%0Aline", files={"file": ("evil\nname", red_clip)})
    service.client.get("/evil-path")
    service.settle()
    assert len(caplog.records) == 2
    fields = [record.fields for record in caplog.records]
    assert "evil" not in str([vars(record) for record in caplog.records])
    told = [(each["route"], each["status"], each["model"], each["outcome"]) for each in fields]
    assert told == [
        ("/predict", 404, "unknown", "unknown_model"),
        ("unmatched", 404, "none", "not_found"),
    ]


def test_health_checks_and_scrapes_do_not_fill_the_log(service, caplog) -> None:
    service.settle()
    caplog.set_level(logging.INFO, "service.middleware")
    for path in ("/health/live", "/health/ready", "/metrics"):
        service.client.get(path)
    service.settle()
    assert not caplog.records


def test_f71_strangers_make_no_new_series(start_service, publish_model, unharmed, tmp_path) -> None:
    """Thousands of paths, models, methods and ids: not one more series than the first of each."""
    publish_model(tmp_path / "models", "lrcn", 1)

    def count_series() -> int:
        text = service.client.get("/metrics").text
        return sum(not line.startswith("#") for line in text.splitlines())

    def knock(numbers: range) -> None:
        requests = [
            request_head(path, method, X_Request_ID=f"id-{number}", Content_Length="0")
            for number in numbers
            for path, method in (
                (f"/path-{number}", "GET"),
                (f"/predict?model=model-{number}", "POST"),
                ("/predict", f"METHOD{number}"),
                (f"/models/{number}", "GET"),
            )
        ]
        with service.connect() as connection:
            sending = threading.Thread(target=lambda: connection.sendall(b"".join(requests)))
            sending.start()
            answered = b""
            due = len(requests)
            while due:
                answered = answered[-20:] + connection.recv(65536)
                due -= answered.count(b'"request_id":"id-')
                answered = answered[answered.rfind(b'"request_id":"id-') + 1 :]
            sending.join(WAIT_S)

    with start_service(models_dir=tmp_path / "models") as service, unharmed(service):
        knock(range(1))
        count_series()
        before = count_series()
        knock(range(1, 1000))
        assert count_series() == before
        assert before < 400


def test_server_timing_tells_the_stages_of_a_prediction(service, red_clip) -> None:
    def stages(response: httpx.Response) -> dict[str, float]:
        parts = response.headers["server-timing"].split(", ")
        found = {name: float(text) for name, text in (part.split(";dur=") for part in parts)}
        assert len(found) == len(parts)
        return found

    answer = service.predict(red_clip)
    timing = stages(answer)
    assert list(timing) == list(STAGES)
    assert timing == pytest.approx(answer.json()["timings_ms"], abs=0.1)
    assert list(stages(service.predict(red_clip[:300]))) == ["receive", "decode", "total"]
    assert "server-timing" not in service.client.get("/models").headers


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say(service, red_clip) -> None:
    service.predict(red_clip)
    service.predict(b"no video")
    text = service.client.get("/metrics").content
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)  # noqa: PLW1510
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
