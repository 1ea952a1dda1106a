"""DecodePool: as many at a time as told, never in the event loop, never for nobody."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from clip import ClipSpec, Limits, SampledClip, read_clip
from clip.errors import DecodeTimeoutError, UnknownContainerError
from service.deadline import Deadline
from service.decoding import DecodePool
from service.errors import DeadlineError
from service.settings import Settings

FAR = Deadline.after(3600)


@pytest.fixture
def video(red_clip: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(red_clip)
        file.flush()
        yield file


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def make_pool() -> DecodePool:
    return DecodePool(workers=2, limits=Limits(), timeout_s=20)


def test_it_gives_what_training_was_given(run_async, video: BinaryIO, red_clip: bytes) -> None:
    async def scenario() -> SampledClip:
        pool = make_pool()
        try:
            return await pool.decode(video, ClipSpec(frames=7), FAR)
        finally:
            await pool.close()

    sampled = run_async(scenario)
    np.testing.assert_array_equal(
        sampled.frames, read_clip(io.BytesIO(red_clip), ClipSpec(frames=7))
    )


def test_the_event_loop_is_free_meanwhile(run_async, gate, gated_decoders, video) -> None:
    async def scenario() -> None:
        pool = gated_decoders.build_decoders(Settings())
        decoding = asyncio.create_task(pool.decode(video, ClipSpec(), FAR))
        await asyncio.to_thread(gate.await_arrivals, 1)
        assert not decoding.done()
        gate.open()
        await decoding
        await pool.close()

    run_async(scenario)


def test_f18_a_job_cancelled_in_the_line_is_never_begun_and_its_descriptor_closed(
    run_async, gate, gated_decoders, video
) -> None:
    async def scenario() -> None:
        pool = gated_decoders.build_decoders(Settings())
        running = asyncio.create_task(pool.decode(video, ClipSpec(), FAR))
        await asyncio.to_thread(gate.await_arrivals, 1)
        before = count_open_files()
        waiting = asyncio.create_task(pool.decode(video, ClipSpec(), FAR))
        await asyncio.sleep(0)
        assert count_open_files() == before + 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert count_open_files() == before
        gate.open()
        await running
        await pool.close()
        assert gate.arrived == 1

    run_async(scenario)


def test_the_file_may_be_closed_while_a_thread_still_reads_it(
    run_async, gate, gated_decoders, red_clip: bytes
) -> None:
    async def scenario() -> SampledClip:
        pool = gated_decoders.build_decoders(Settings())
        with tempfile.TemporaryFile() as file:
            file.write(red_clip)
            file.flush()
            decoding = asyncio.create_task(pool.decode(file, ClipSpec(), FAR))
            await asyncio.to_thread(gate.await_arrivals, 1)
        gate.open()
        sampled = await decoding
        await pool.close()
        return sampled

    assert run_async(scenario).info.frames_found == 30


def test_errors_of_the_video_come_through(run_async) -> None:
    async def scenario() -> None:
        pool = make_pool()
        try:
            with tempfile.TemporaryFile() as file:
                file.write(b"<html>no video</html>")
                file.flush()
                await pool.decode(file, ClipSpec(), FAR)
        finally:
            await pool.close()

    with pytest.raises(UnknownContainerError):
        run_async(scenario)


@pytest.mark.parametrize(
    ("timeout_s", "deadline", "error"),
    [
        (1e-9, FAR, DecodeTimeoutError),
        (20, Deadline.after(0), DeadlineError),
        (1e-9, Deadline.after(0), DeadlineError),
    ],
)
def test_f53_its_own_limit_is_the_videos_fault_the_requests_is_not(
    run_async, video, timeout_s: float, deadline: Deadline, error: type[Exception]
) -> None:
    async def scenario() -> None:
        pool = DecodePool(workers=1, limits=Limits(), timeout_s=timeout_s)
        try:
            await pool.decode(video, ClipSpec(), deadline)
        finally:
            await pool.close()

    with pytest.raises(error):
        run_async(scenario)
