"""Clients that break HTTP, dawdle, crowd or lie: each is dealt with, and nobody else notices."""

from __future__ import annotations

import json
import logging
import socket

import pytest

from service.context import UNKNOWN_MODEL
from tests.service.wire import (
    FORM_HEAD,
    FORM_HEADERS,
    FORM_TAIL,
    VIDEO_HEAD,
    chunked,
    read_to_end,
    request_head,
)

# --- bodies that are not as announced -------------------------------------------------------------


def test_f08_a_body_longer_than_its_length_ends_where_it_said(service, red_clip) -> None:
    """What comes after is the next request, and no good one."""
    with service.connect() as connection:
        head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
        connection.sendall(head + red_clip + b"\0\0\0 more of the video\r\n\r\n")
        answers = read_to_end(connection)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answers


def test_f08_a_body_shorter_than_its_length_is_a_client_that_left(service, wait_for) -> None:
    before = service.count_predicts("client_gone")
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type="video/mp4", Content_Length="100000") + VIDEO_HEAD
        )
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    wait_for(lambda: service.count_predicts("client_gone") == before + 1)


def test_f08_a_length_beside_chunks_is_refused_and_nothing_is_smuggled(service, red_clip) -> None:
    smuggled = request_head("/health/live", "GET")
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type="video/mp4", Content_Length="4", Transfer_Encoding="chunked")
            + chunked(red_clip + smuggled, 1000)
        )
        answers = read_to_end(connection)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"bad_request" in answers


@pytest.mark.parametrize(("method", "path"), [("GET", "/health/live"), ("POST", "/nowhere")])
def test_f08_nothing_follows_a_request_of_two_lengths_wherever_it_goes(
    service, method: str, path: str
) -> None:
    with service.connect() as connection:
        connection.sendall(
            request_head(path, method, Content_Length="5", Transfer_Encoding="chunked")
            + b"0\r\n\r\n"
            + request_head("/models", "GET")
        )
        answers = read_to_end(connection)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b'"models"' not in answers


def test_f09_a_million_bytes_in_tiny_chunks_hold_up_nobody(start_service, unharmed) -> None:
    """Others are answered while the pieces come: no read hands the event loop more than a few."""
    body = VIDEO_HEAD + b"\0" * 200_000
    wire = request_head(Content_Type="video/mp4", Transfer_Encoding="chunked") + chunked(body, 6)
    with start_service() as service, unharmed(service), service.connect() as connection:
        half = len(wire) // 2
        connection.sendall(wire[:half])
        for _ in range(20):
            assert service.client.get("/health/live").status_code == 200
        connection.sendall(wire[half:])
        assert service.read_answer(connection)[0] == 422


def test_f11_line_ends_before_and_after_the_form_cost_nothing(service, red_clip) -> None:
    blank = b"\r\n" * 20_000
    form = blank + FORM_HEAD + red_clip + FORM_TAIL
    response = service.client.post("/predict", content=form, headers=FORM_HEADERS)
    assert response.status_code == 200
    response = service.client.post("/predict", content=blank * 3, headers=FORM_HEADERS)
    assert response.json()["code"] == "malformed_multipart"


def test_f12_a_part_header_of_a_megabyte_is_not_waited_for(service) -> None:
    """It is refused on the way: the rest of the megabyte is never sent."""
    head = FORM_HEAD.rstrip(b"\r\n") + b"; x=" + b'"\\' * 40_000
    with service.connect() as connection:
        connection.sendall(
            request_head(Transfer_Encoding="chunked", Content_Type=FORM_HEADERS["Content-Type"])
            + chunked(head, 1000).removesuffix(b"0\r\n\r\n")
        )
        status, _, problem = service.read_answer(connection)
    assert (status, problem["code"]) == (400, "malformed_multipart")


def test_f14_a_compressed_body_is_never_inflated(service, expect_problem) -> None:
    for encoding in ("gzip", "br", "deflate", "identity, gzip", "zstd"):
        headers = {"Content-Type": "video/mp4", "Content-Encoding": encoding}
        response = service.client.post("/predict", content=b"\x1f\x8b" * 50, headers=headers)
        expect_problem(response, 415, "unsupported_encoding")


# --- many at once ---------------------------------------------------------------------------------


def test_f20_pipelined_requests_are_answered_in_order(service, red_clip) -> None:
    predict = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip))) + red_clip
    with service.connect() as connection:
        connection.sendall((predict + request_head("/health/live", "GET")) * 2)
        connection.sendall(request_head("/models", "GET", Connection="close"))
        answers = read_to_end(connection)
    found = [
        next(word for word in (b'"label"', b'"alive"', b'"models"') if word in answer)
        for answer in answers.split(b"HTTP/1.1 200 OK")[1:]
    ]
    assert found == [b'"label"', b'"alive"'] * 2 + [b'"models"']


def test_f20_idle_connections_make_room_for_new_ones(start_service, unharmed, red_clip) -> None:
    """Ten places, two hundred visitors: the one that has been idle the longest has to go."""
    with start_service(max_connections=10) as service, unharmed(service):
        visitors = []
        for _ in range(200):
            connection = service.connect()
            connection.sendall(request_head("/health/live", "GET"))
            assert service.read_answer(connection)[0] == 200
            visitors.append(connection)
            assert len(service.server.server_state.connections) <= 10
        with service.connect() as connection:
            head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
            connection.sendall(head + red_clip)
            assert service.read_answer(connection)[2]["label"] == "red"
        assert read_to_end(visitors[0]) == b""
        for connection in visitors:
            connection.close()


def test_f20_nobody_at_work_is_sent_away_for_a_newcomer(
    start_service, gated_decoders, gate, red_clip, wait_for
) -> None:
    head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
    with start_service(gated_decoders, max_connections=2) as service:
        working = [service.connect() for _ in range(2)]
        for connection in working:
            connection.sendall(head + red_clip)
        wait_for(lambda: service.runtime.admission.in_flight == 2)
        with service.connect() as newcomer:
            status, headers, problem = service.read_answer(newcomer)
            assert (status, problem["code"]) == (503, "out_of_connections")
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
        gate.open()
        for connection in working:
            with connection:
                assert service.read_answer(connection)[2]["label"] == "red"
        assert service.metric("har_rejected_total", reason="out_of_connections") == 1


# --- addresses, methods and headers ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "X" * 1000])
def test_f21_other_methods_are_405_under_one_label(service, method: str) -> None:
    before = service.count_predicts("405", "none")
    with service.connect() as connection:
        connection.sendall(request_head("/predict", method, Connection="close"))
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 405 ")
    service.settle()
    assert service.count_predicts("405", "none") == before + 1


def test_f22_an_unknown_model_is_refused_before_its_body(service) -> None:
    before = service.count_predicts("404", UNKNOWN_MODEL)
    with service.connect() as connection:
        connection.sendall(
            request_head("/predict?model=lrcn%00", Content_Type="video/mp4", Content_Length="1000")
        )
        status, _, problem = service.read_answer(connection)
    assert (status, problem["code"]) == (404, "unknown_model")
    service.settle()
    assert service.count_predicts("404", UNKNOWN_MODEL) == before + 1


def test_a_body_that_turns_into_no_http_after_its_answer_is_no_fault_of_ours(
    service, caplog
) -> None:
    with service.connect() as connection:
        connection.sendall(
            request_head(
                "/predict?model=nope", Content_Type="video/mp4", Transfer_Encoding="chunked"
            )
        )
        assert service.read_answer(connection)[0] == 404
        connection.sendall(b"zz\r\n")
        assert read_to_end(connection) == b""
    service.settle()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_f20_after_the_rest_of_a_refused_body_a_connection_idles_no_longer_than_any(
    start_service, wait_for
) -> None:
    with start_service() as service, service.connect() as connection:
        connection.sendall(
            request_head("/predict?model=nope", Content_Type="video/mp4", Content_Length="10")
        )
        assert service.read_answer(connection)[0] == 404
        (protocol,) = (
            one
            for one in service.server.server_state.connections
            if one.client == connection.getsockname()
        )
        connection.sendall(b"01234")
        wait_for(lambda: protocol.timeout_keep_alive_task is None)
        connection.sendall(b"56789")
        wait_for(lambda: protocol.timeout_keep_alive_task is not None)
        # It is as good as any other.
        connection.sendall(request_head("/health/live", "GET"))
        assert service.read_answer(connection)[0] == 200


def test_f25_a_false_host_or_forwarding_header_is_believed_by_nobody(service, caplog) -> None:
    lies = {
        "Host": "evil.example",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "for=203.0.113.7;host=evil.example",
    }
    for path in (
        "/",
        "/predict/",
        "/models",
        "/models/",
        "/docs",
        "/openapi.json",
        "//evil.example",
    ):
        honest = service.client.get(path)
        lied_to = service.client.get(path, headers=lies)
        assert (lied_to.status_code, lied_to.is_redirect) == (honest.status_code, False)
        for text in (lied_to.text, json.dumps(dict(lied_to.headers))):
            assert "evil" not in text
            assert "203.0.113.7" not in text
    service.settle()
    assert "evil" not in str([vars(record) for record in caplog.records if record.name != "httpx"])


def test_f25_a_request_without_a_host_is_no_http(service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n\r\n")
        assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")
