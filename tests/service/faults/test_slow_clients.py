"""Clients that take their time, to send or to read: each is waited for so long and no longer."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from tests.service.gate import WAIT_S
from tests.service.live import wait_until
from tests.service.wire import (
    VIDEO_HEAD,
    read_to_end,
    request_head,
)


def dribble(connection: socket.socket, piece: bytes, *, until: threading.Event) -> threading.Thread:
    """A thread that sends the piece again and again, once it is started."""

    def send() -> None:
        with suppress(OSError):
            while not until.wait(0.02):
                connection.sendall(piece)

    return threading.Thread(target=send)


def test_f15_headers_that_never_end_close_the_connection(start_service, unharmed, red_clip) -> None:
    """A byte now and then buys no time: the clock starts with the first."""
    with start_service(header_timeout_s=2) as service, unharmed(service):
        silent = service.connect()
        dribbling = service.connect()
        again = service.connect()
        again.sendall(request_head("/health/live", "GET"))
        assert service.read_answer(again)[0] == 200
        again.sendall(b"GET / HT")
        dribbling.sendall(b"POST /predict HTTP/1.1\r\n")
        closed = threading.Event()
        thread = dribble(dribbling, b"X: y\r\n", until=closed)
        thread.start()
        assert service.predict(red_clip).status_code == 200
        for connection in (silent, dribbling, again):
            assert read_to_end(connection) == b""
        closed.set()
        thread.join(WAIT_S)
        for connection in (silent, dribbling, again):
            connection.close()


def test_f15_a_client_that_reads_no_answers_is_not_waited_for_for_ever(
    start_service, unharmed, wait_for
) -> None:
    """Its next request would wait to be answered, and nobody could close its connection."""
    with start_service(upload_idle_timeout_s=2) as service, unharmed(service):
        connections = service.server.server_state.connections
        with service.connect() as connection:
            connection.setblocking(False)
            asking = request_head("/openapi.json", "GET") * 100
            due_s = time.monotonic() + WAIT_S
            while not (stalled := [one for one in list(connections) if one.flow.write_paused]):
                assert time.monotonic() < due_s
                with suppress(BlockingIOError):
                    connection.send(asking)
            wait_for(lambda: stalled[0] not in connections)


def test_f15_a_client_that_reads_slowly_gets_every_answer(start_service) -> None:
    requests = 200
    with (
        start_service(upload_idle_timeout_s=2, min_upload_bytes_per_s=1) as service,
        service.connect() as connection,
    ):
        asking = request_head("/openapi.json", "GET") * (requests - 1)
        connection.sendall(asking + request_head("/openapi.json", "GET", Connection="close"))
        wait_until(
            lambda: any(one.flow.write_paused for one in service.server.server_state.connections)
        )
        received = bytearray()
        while piece := connection.recv(262_144):
            received += piece
        assert received.count(b"HTTP/1.1 200 OK") == requests


def test_f15_the_rest_of_a_refused_body_is_not_waited_for_for_ever(start_service) -> None:
    with (
        start_service(request_timeout_s=1, decode_timeout_s=1) as service,
        service.connect() as connection,
    ):
        connection.sendall(
            request_head("/predict?model=nope", Content_Length="1000", Content_Type="video/mp4")
        )
        assert read_to_end(connection).startswith(b"HTTP/1.1 404 ")


def test_f15_a_connection_that_is_used_outlives_the_header_timeout(
    start_service, red_clip, gated_decoders, gate
) -> None:
    """The clock of headers stands still while a request is in work, however long that takes."""
    with (
        start_service(gated_decoders, header_timeout_s=2) as service,
        service.connect() as connection,
    ):
        head = request_head(Content_Type="video/mp4", Content_Length=str(len(red_clip)))
        connection.sendall(head + red_clip)
        gate.await_arrivals(1)
        with service.connect() as other:
            assert read_to_end(other) == b""  # the timeout has passed
        gate.open()
        assert service.read_answer(connection)[0] == 200


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        pytest.param({"upload_idle_timeout_s": 2}, "Nothing came for 2 seconds.", id="stalled"),
        pytest.param(
            {"upload_idle_timeout_s": 2, "min_upload_bytes_per_s": 10**9},
            "Less than 1e+09 bytes came a second.",
            id="slow",
        ),
    ],
)
def test_f16_a_slow_body_is_408_and_its_place_is_free_again(
    start_service, unharmed, changes: dict[str, float], detail: str
) -> None:
    with (
        start_service(max_in_flight=1, max_batch_size=1, **changes) as service,
        unharmed(service),
        service.connect() as connection,
    ):
        connection.sendall(
            request_head(Content_Type="video/mp4", Content_Length="100000") + VIDEO_HEAD
        )
        answered = threading.Event()
        thread = dribble(connection, b"\0", until=answered)
        if "min_upload_bytes_per_s" in changes:
            thread.start()
        status, _, problem = service.read_answer(connection)
        answered.set()
        if thread.ident:
            thread.join(WAIT_S)
        assert (status, problem["code"], problem["detail"]) == (408, "upload_timeout", detail)
        assert service.runtime.admission.in_flight == 0


def test_f17_a_client_that_hangs_up_is_no_error_of_anyone(service, wait_for) -> None:
    def count_errors() -> float:
        return sum(
            sample.value
            for metric in service.runtime.metrics.registry.collect()
            for sample in metric.samples
            if sample.name in {"har_rejected_total", "har_failures_total"}
        )

    gone, errors = service.count_predicts("client_gone"), count_errors()
    with service.connect() as connection:
        connection.sendall(
            request_head(Content_Type="video/mp4", Content_Length="200000") + VIDEO_HEAD
        )
        wait_for(lambda: service.runtime.admission.in_flight == 1)
    wait_for(lambda: service.count_predicts("client_gone") == gone + 1)
    assert count_errors() == errors
