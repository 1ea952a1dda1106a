"""Logs: one line an event, whatever the event holds, in either format."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.logs import JsonFormatter, ReadableFormatter, log_event

logger = logging.getLogger("tests.logs")
NASTY = ["a\nb", "a\r\nINFO forged", "\x1b[31mred", "tab\t", '"quoted"', "a=b c=d", "\u202egpm", ""]


def render(formatter: logging.Formatter, message: str, **fields: object) -> str:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        log_event(logger, logging.WARNING, message, **fields)
    finally:
        logger.removeHandler(handler)
    return formatter.format(records[0])


def test_a_json_line_has_the_fields_beside_time_level_and_logger() -> None:
    entry = json.loads(render(JsonFormatter(), "request", status=200, model="lrcn", trace_id=None))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "warning",
        "logger": "tests.logs",
        "message": "request",
        "status": 200,
        "model": "lrcn",
    }


def test_a_readable_line_is_the_same_in_words() -> None:
    line = render(ReadableFormatter(), "request", status=200, total_ms=1.5, route="/predict")
    assert line.split(" ", 1)[1] == (
        "WARNING tests.logs request status=200 total_ms=1.5 route=/predict"
    )


@given(st.text() | st.sampled_from(NASTY), st.text() | st.sampled_from(NASTY))
def test_f13_no_text_ends_a_line_or_passes_for_a_field(message: str, name: str) -> None:
    for formatter in (JsonFormatter(), ReadableFormatter()):
        line = render(formatter, message, file=name, status=200)
        assert len(line.splitlines()) == 1
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", line)
    assert line.endswith(" status=200")
    assert json.loads(render(JsonFormatter(), message, file=name))["file"] == name


def test_a_traceback_stays_with_its_line() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        record = logger.makeRecord(
            "tests.logs", logging.ERROR, __file__, 1, "failed", (), sys.exc_info()
        )
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("KeyError: 'x'")
    first, *rest = ReadableFormatter().format(record).splitlines()
    assert first.endswith("ERROR tests.logs failed")
    assert rest[-1] == "KeyError: 'x'"


def test_a_request_is_one_line_with_its_stages(service, red_clip, caplog) -> None:
    service.settle()
    caplog.set_level(logging.INFO, "service.middleware")
    response = service.client.post(
        "/predict", files={"file": ("evil\nname", red_clip)}, headers={"X-Request-ID": "mine"}
    )
    service.settle()
    (record,) = caplog.records
    fields = record.fields
    assert list(fields) == [
        "request_id",
        "route",
        "status",
        "outcome",
        "model",
        "received_bytes",
        "receive_ms",
        "decode_ms",
        "queue_ms",
        "infer_ms",
        "total_ms",
        "client",
        "scheme",
    ]
    assert (fields["client"], fields["scheme"]) == ("127.0.0.1", "http")
    assert (fields["request_id"], fields["route"], fields["status"]) == ("mine", "/predict", 200)
    assert (fields["outcome"], fields["model"]) == ("ok", "lrcn")
    assert fields["received_bytes"] == int(response.request.headers["content-length"])
    assert fields["decode_ms"] <= fields["total_ms"]
    assert "evil" not in str(vars(record))


def test_a_refusal_tells_how_far_it_came(service, red_clip, caplog) -> None:
    service.settle()
    caplog.set_level(logging.INFO, "service.middleware")
    service.predict(red_clip[:300])
    service.settle()
    (record,) = caplog.records
    assert record.fields["outcome"] == "decode_failed"
    assert {"receive_ms", "decode_ms"} <= set(record.fields)
    assert "infer_ms" not in record.fields


def test_every_line_of_a_process_is_json_where_that_was_asked_for(launch, red_clip) -> None:
    with launch() as service:
        service.predict(red_clip)
        service.predict(b"no video")
        with service.connect() as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        assert service.stop() == 0
        entries = [json.loads(line) for line in service.log.read_text().splitlines()]
    ready = next(entry for entry in entries if entry["message"] == "ready")
    assert ready["models"] == {"lrcn": 1, "tiny": 2}
    outcomes = [entry["outcome"] for entry in entries if entry["message"] == "request"]
    assert outcomes == ["ok", "unknown_container"]
    assert "Invalid HTTP request received." in {entry["message"] for entry in entries}


def test_a_failed_start_is_json_too(tmp_path, publish_model, launch) -> None:
    folder = publish_model(tmp_path / "bad")
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(pytest.fail.Exception) as failed, launch(HAR_MODELS_DIR=tmp_path / "bad"):
        pytest.fail("ready")
    entry = json.loads(str(failed.value).removeprefix("ended: "))
    assert (entry["level"], entry["message"]) == ("critical", "cannot start")
    assert entry["reason"].startswith(f"{folder}: sha256 ")
