"""Decoders that crash, hang, leak or are killed, as the clients see it."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip import Limits
from service.decoding import DecodePool
from service.metrics import Metrics
from service.runtime import Collaborators
from service.settings import Settings
from tests.open_files import count_open_files
from tests.service.decoder_jobs import VIDEO_BEGINNING
from tests.service.gate import WAIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

MEBIBYTE = 1024 * 1024


class Misbehaving:
    """A service whose decoders do what a file's first word says, and its pool."""

    def __init__(self, service: Any, pool: DecodePool, clip: bytes) -> None:
        self.service, self.pool, self.clip = service, pool, clip

    def send(self, word: str) -> httpx.Response:
        """Send a word on a connection of its own."""
        return self.predict(VIDEO_BEGINNING + word.encode())

    def send_clip(self) -> httpx.Response:
        return self.predict(self.clip)

    def predict(self, content: bytes) -> httpx.Response:
        headers = {"Content-Type": "video/mp4"}
        address = f"{self.service.url}/predict"
        # verify: there is no TLS here, and its certificates would be read for each request.
        with httpx.Client(verify=False, timeout=WAIT_S) as client:
            return client.post(address, content=content, headers=headers)

    def decoders(self) -> list[int]:
        return self.pool.process_ids[1:]

    def restarts(self, reason: str) -> float:
        return float(self.service.metric("har_decoder_restarts_total", reason=reason))


@pytest.fixture
def misbehaving(start_service, red_clip: bytes, wait_for):
    """misbehaving(workers=2, **options of the pool): that service, as a context manager.

    At its end it has to answer a good clip as at its beginning and to hold nothing.
    """

    @contextmanager
    def start(workers: int = 2, settings: Any = None, **options: Any) -> Iterator[Misbehaving]:
        pools: list[DecodePool] = []

        def build(settings: Settings, metrics: Metrics) -> DecodePool:
            values: dict[str, Any] = {"limits": Limits(), "timeout_s": settings.decode_timeout_s}
            values |= {"job": "tests.service.decoder_jobs:misbehave"} | options
            pools.append(
                DecodePool(workers=workers, on_restart=metrics.count_decoder_restart, **values)
            )
            return pools[0]

        with start_service(Collaborators(build_decoders=build), **(settings or {})) as service:
            good = service.predict(red_clip).json()["probabilities"]
            open_files = count_open_files()
            it = Misbehaving(service, pools[0], red_clip)
            yield it
            assert service.predict(red_clip).json()["probabilities"] == good
            wait_for(lambda: len(it.decoders()) == workers)
            wait_for(lambda: count_open_files() <= open_files)
            assert not list(service.runtime.spool.folder.iterdir())

    return start


@pytest.mark.parametrize(
    ("word", "reason"), [("crash", "crashed"), ("exit", "crashed"), ("eat", "out_of_memory")]
)
def test_f52_a_crash_is_that_clients_alone(
    misbehaving, expect_problem, word: str, reason: str
) -> None:
    with misbehaving(memory_bytes=256 * MEBIBYTE) as it, ThreadPoolExecutor(4) as clients:
        before = set(it.decoders())
        siblings = [clients.submit(it.send_clip) for _ in range(4)]
        expect_problem(it.send(word), 422, "decoder_crashed")
        assert {job.result().status_code for job in siblings} == {200}
        assert it.restarts(reason) == 1
        assert len(set(it.decoders()) & before) == 1


@pytest.mark.parametrize("word", ["loop", "stop"])
def test_f53_a_decoder_that_hangs_is_killed_at_the_deadline(
    misbehaving, expect_problem, wait_for, word: str
) -> None:
    # "loop" ignores SIGTERM too, as all decoders do.
    with misbehaving(timeout_s=2) as it, ThreadPoolExecutor(1) as clients:
        before = set(it.decoders())
        hanging = clients.submit(it.send, word)
        assert it.service.predict(it.clip).status_code == 200
        expect_problem(hanging.result(), 422, "decode_timeout")
        wait_for(lambda: len(it.decoders()) == 2)
        (killed,) = before - set(it.decoders())
        wait_for(lambda: not Path(f"/proc/{killed}").exists())
        assert it.restarts("timeout") == 1


def resident_mebibytes(process_id: int) -> float:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


def test_f54_what_a_decoder_leaks_is_given_back(misbehaving, expect_problem) -> None:
    with misbehaving(workers=1, max_jobs=20) as it:
        (first,) = it.decoders()
        fresh = resident_mebibytes(first)
        most = 0.0
        for _ in range(1000):
            # A mebibyte is kept of each.
            answer = it.service.predict(VIDEO_BEGINNING + b"leak")
            expect_problem(answer, 422, "decode_failed")
            most = max(most, *map(resident_mebibytes, it.decoders()), 0.0)
        assert 10 < most - fresh < 60
        assert it.restarts("recycled") == 50
        assert it.restarts("out_of_memory") == 0


@pytest.mark.parametrize("victims", ["decoders", "their parent", "all"])
def test_f55_after_all_were_killed_the_service_answers_again(
    misbehaving, wait_for, victims: str
) -> None:
    with misbehaving(timeout_s=60) as it, ThreadPoolExecutor(2) as clients:
        working = [clients.submit(it.send, "loop") for _ in range(2)]
        parent, *decoders = it.pool.process_ids
        wait_for(lambda: all(map(has_looped, decoders)))
        for process_id in {
            "decoders": decoders,
            "their parent": [parent],
            "all": [parent, *decoders],
        }[victims]:
            os.kill(process_id, signal.SIGKILL)
        answers = [job.result() for job in working]
        assert {answer.status_code for answer in answers} <= {422, 503}
        assert it.service.client.get("/health/ready").status_code == 200
        assert it.service.predict(it.clip).status_code == 200
        assert it.restarts("crashed") == 2


def has_looped(process_id: int) -> bool:
    """Whether a decoder has used more CPU time than one that only waits."""
    ticks = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) >= 3


def test_f56_a_storm_of_crashers_keeps_nobody_from_being_answered(misbehaving) -> None:
    storm, others = 100, 20
    limits = {"max_in_flight": storm + others}
    with misbehaving(settings=limits) as it, ThreadPoolExecutor(storm + others) as clients:
        crashers = [clients.submit(it.send, "crash") for _ in range(storm)]
        answers = [clients.submit(it.send_clip) for _ in range(others)]
        assert Counter(job.result().status_code for job in answers) == {200: others}
        codes = Counter(job.result().json()["code"] for job in crashers)
        assert codes == {"decoder_crashed": storm}
        assert it.restarts("crashed") == storm
