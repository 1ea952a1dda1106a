"""Receiving a body without a socket: how its pace is judged, and what a cancelled write leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import BinaryIO

import pytest

import service.upload
from service.deadline import Deadline
from service.errors import UploadTimeoutError
from service.spool import Spool
from service.upload import BodyFormat, hold_to_pace, receive_upload
from tests.service.gate import WAIT_S
from tests.service.wire import VIDEO_HEAD


@pytest.mark.parametrize(
    ("waits", "taken"),
    [
        pytest.param([(10, 1), (0, 1)], 2, id="the beginning may be slow"),
        pytest.param([(9, 1), (2, 1098)], 1, id="then it must have made up"),
        pytest.param([(9, 1), (2, 1099), (0, 1)], 3, id="as this has"),
        pytest.param([(6, 550), (6, 550)], 1, id="every wait counts"),
        pytest.param([(6, 650), (6, 650)], 2, id="and every byte"),
    ],
)
def test_f16_the_pace_is_bytes_by_the_time_that_the_client_took(
    run_async, monkeypatch, waits: list[tuple[float, int]], taken: int
) -> None:
    """Ten seconds of grace, and a hundred bytes a second."""
    now = 0.0
    monkeypatch.setattr(service.upload, "time", SimpleNamespace(monotonic=lambda: now))

    async def send() -> AsyncGenerator[bytes, None]:
        nonlocal now
        for wait_s, size in waits:
            now += wait_s
            yield b"x" * size

    async def receive() -> int:
        nonlocal now
        count = 0
        try:
            async for _ in hold_to_pace(send(), idle_timeout_s=10, min_bytes_per_s=100):
                count += 1
                now += 1000.0  # what the service takes is not the client's
        except UploadTimeoutError:
            assert count < len(waits)
        return count

    assert run_async(receive) == taken


def test_f17_a_write_under_way_ends_before_its_file_is_closed(run_async, tmp_path, gate) -> None:
    spool = Spool(tmp_path)
    file = spool.open_file()

    def open_late() -> BinaryIO:
        gate.pass_through()
        return file

    async def send() -> AsyncGenerator[bytes, None]:
        yield VIDEO_HEAD

    async def receive() -> None:
        limits = {"max_upload_bytes": 1_000_000, "deadline": Deadline.after(WAIT_S)}
        async with receive_upload(send(), BodyFormat(boundary=None), spool, **limits):
            pytest.fail("received")

    async def scenario() -> None:
        receiving = asyncio.create_task(receive())
        await asyncio.to_thread(gate.await_arrivals, 1)
        receiving.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not receiving.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert file.closed

    spool.open_file = open_late
    run_async(scenario)
