"""More than can be done: the surplus is refused at once, and nobody is kept out by a crowd."""

from __future__ import annotations

import logging
import threading
import time

import httpx
import pytest

from tests.service.gate import WAIT_S
from tests.service.wire import request_head


def whole_request(clip: bytes, query: str = "") -> bytes:
    head = request_head(f"/predict{query}", Content_Type="video/mp4", Content_Length=str(len(clip)))
    return head + clip


def test_f60_under_overload_each_is_answered_or_refused_and_all_are_right(
    start_service, unharmed, make_clip
) -> None:
    """Sixteen clients at a service for two, without a pause; benchmarks/overload.py measures."""
    clips = {colour: make_clip(colour) for colour in ("red", "green", "blue")}
    limits = {"max_in_flight": 2, "max_waiting": 2, "max_batch_size": 2}
    outcomes: list[object] = []
    with start_service(**limits) as service, unharmed(service):

        def ask(colour: str) -> None:
            with httpx.Client(base_url=service.url, timeout=WAIT_S) as client:
                for _ in range(15):
                    answer = client.post("/predict", files={"file": clips[colour]})
                    if answer.status_code == 429:
                        outcomes.append(1 <= int(answer.headers["retry-after"]) <= 60)
                    else:
                        outcomes.append((answer.status_code, answer.json()["label"] == colour))

        threads = [
            threading.Thread(target=ask, args=(colour,))
            for _, colour in zip(range(16), list(clips) * 6, strict=False)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(outcomes) == 16 * 15
        assert set(outcomes) == {True, (200, True)}
        assert service.metric("har_rejected_total", reason="overloaded") == outcomes.count(True)
        assert (service.runtime.admission.in_flight, service.runtime.admission.waiting) == (0, 0)


def test_f61_a_crowd_for_one_model_leaves_the_other_its_share(
    start_service, gated_decoders, gate, red_clip, wait_for
) -> None:
    limits = {"max_in_flight": 1, "max_waiting": 4, "max_batch_size": 1}
    order: list[str] = []
    with start_service(gated_decoders, **limits) as service:

        def ask(query: str) -> None:
            with service.connect() as connection:
                connection.sendall(whole_request(red_clip, query))
                status, _, body = service.read_answer(connection)
                order.append(body["model"] if status == 200 else body["code"])

        def start(query: str) -> threading.Thread:
            thread = threading.Thread(target=ask, args=(query,))
            thread.start()
            return thread

        admission = service.runtime.admission
        threads = [start("?model=lrcn")]
        wait_for(lambda: admission.in_flight == 1)
        for number in range(1, 5):
            threads.append(start("?model=lrcn"))
            wait_for(lambda number=number: admission.waiting == number)
        ask("?model=lrcn")
        assert order == ["overloaded"]
        threads.append(start("?model=tiny"))
        wait_for(lambda: admission.waiting == 5)
        gate.open()
        for thread in threads:
            thread.join(WAIT_S)
    # One line for all would answer it last. Each thread notes its answer a moment after it came.
    assert order.index("tiny") <= 4
    assert order.count("lrcn") == 5


def test_f71_scrapes_without_end_keep_nobody_waiting(service, red_clip) -> None:
    scraping = threading.Event()
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        request = request_head("/metrics", "GET")
        with service.connect() as connection:
            while not scraping.is_set():
                connection.sendall(request)
                status = connection.recv(15)
                while b"har_event_loop_lag_seconds_sum" not in status:
                    status = status[-64:] + connection.recv(65536)
                scrapes += 1

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        give_up_s = time.monotonic() + WAIT_S
        while scrapes < 100:
            assert service.predict(red_clip).json()["label"] == "red"
            assert time.monotonic() < give_up_s
    finally:
        scraping.set()
        thread.join(WAIT_S)


def test_f72_a_stall_of_the_event_loop_shows_in_the_metric(start_service, wait_for) -> None:
    name = "har_event_loop_lag_seconds"
    with start_service() as service:

        def count_late() -> float:
            return service.metric(f"{name}_count") - service.metric(f"{name}_bucket", le="0.25")

        before = count_late()
        loop = service.server.servers[0].get_loop()
        loop.call_soon_threadsafe(time.sleep, 0.6)
        wait_for(lambda: count_late() > before)
        assert service.client.get("/health/live").status_code == 200


def test_f72_nothing_that_the_service_does_blocks_the_event_loop(
    start_service, caplog, make_clip
) -> None:
    """asyncio's debug mode tells of every callback that takes long; a planted one is told."""
    caplog.set_level(logging.WARNING, "asyncio")
    large = make_clip(frames=200, size=(640, 480))

    def slow() -> list[str]:
        return [
            record.getMessage() for record in caplog.records if "Executing" in record.getMessage()
        ]

    with start_service() as service:
        loop = service.server.servers[0].get_loop()
        loop.call_soon_threadsafe(loop.set_debug, True)
        # Other processes want this machine too: less than two seconds may be their doing.
        loop.slow_callback_duration = 2
        service.settle()
        assert service.predict(large).json()["label"] == "red"
        assert service.predict(large[:5000]).status_code == 422
        assert service.client.post("/predict", content=b"x" * 200_000).status_code == 415
        assert service.client.get("/metrics").status_code == 200
        assert service.client.get("/openapi.json").status_code == 200
        assert not slow()
        loop.call_soon_threadsafe(time.sleep, 2.5)
        service.settle()
        assert slow()


@pytest.mark.parametrize("jump_s", [-1e6, 1e6])
def test_f70_a_clock_that_jumps_amid_a_request_changes_no_deadline(
    start_service, gated_decoders, gate, red_clip, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    now = time.time
    with start_service(gated_decoders) as service, service.connect() as connection:
        connection.sendall(whole_request(red_clip))
        gate.await_arrivals(1)
        monkeypatch.setattr(time, "time", lambda: now() + jump_s)
        gate.open()
        status, _, body = service.read_answer(connection)
        assert (status, body["label"]) == (200, "red")
        assert 0 < body["timings_ms"]["total"] < 60_000
        assert service.predict(red_clip).status_code == 200
