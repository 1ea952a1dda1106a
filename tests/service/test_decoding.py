"""DecodePool: as many at a time as told, and whatever a video does to its decoder stays there."""

from __future__ import annotations

import asyncio
import io
import sys

import numpy as np
import pytest

from clip import ClipSpec, Limits, read_clip
from clip.errors import ClipError, DecodeTimeoutError, UnknownContainerError
from service.deadline import Deadline
from service.decoder_protocol import UnexpectedError
from service.decoding import DecodePool
from service.errors import DeadlineError, StoppingError
from tests.service.gate import Gate
from tests.service.pools import (
    FAR,
    MISBEHAVE,
    decoding,
    file_of,
    is_running,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# --- what it gives --------------------------------------------------------------------------------


def test_it_gives_what_training_was_given(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding() as it:
            with file_of(red_clip) as file:
                sampled = await it.pool.decode(file, ClipSpec(frames=7), FAR)
        np.testing.assert_array_equal(
            sampled.frames, read_clip(io.BytesIO(red_clip), ClipSpec(frames=7))
        )
        assert (sampled.info.codec, sampled.info.frames_found) == ("mpeg4", 30)

    run_async(scenario)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("avi", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("mpegts", "mpeg2video")],
)
def test_every_codec_works_under_the_limits(run_async, make_clip, container, codec) -> None:
    content = make_clip("green", container=container, codec=codec, size=(640, 480))

    async def scenario() -> None:
        async with decoding() as it:
            sampled = await it.decode(content)
        np.testing.assert_array_equal(sampled.frames, read_clip(io.BytesIO(content)))

    run_async(scenario)


def test_errors_of_the_video_come_through_and_cost_no_decoder(run_async) -> None:
    async def scenario() -> None:
        async with decoding() as it:
            before = it.pool.process_ids
            with pytest.raises(UnknownContainerError, match="send MP4"):
                await it.decode(b"<html>no video</html>")
            assert it.pool.process_ids == before
            assert not it.restarts

    run_async(scenario)


def test_a_fault_of_ours_is_no_fault_of_the_video(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE) as it:
            with pytest.raises(UnexpectedError) as fault:
                await it.decode(b"bug")
            assert not isinstance(fault.value, ClipError)
            assert "KeyError" in str(fault.value)
            assert str(fault.value).isprintable()
            await it.decode(red_clip)

    run_async(scenario)


# --- who waits, and who has gone ------------------------------------------------------------------


def test_the_event_loop_is_free_meanwhile(run_async, gate: Gate, gated_job, red_clip) -> None:
    async def scenario() -> None:
        async with decoding(job=gated_job) as it:
            job = asyncio.create_task(it.decode(red_clip))
            await asyncio.to_thread(gate.await_arrivals, 1)
            assert not job.done()
            gate.open()
            await job

    run_async(scenario)


def test_f18_a_job_cancelled_in_the_line_is_never_begun(
    run_async, gate: Gate, gated_job, red_clip: bytes
) -> None:
    async def scenario() -> None:
        async with decoding(job=gated_job) as it:
            running = asyncio.create_task(it.decode(red_clip))
            await asyncio.to_thread(gate.await_arrivals, 1)
            waiting = asyncio.create_task(it.decode(red_clip))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open()
            await running
            assert gate.arrived == 1
            assert not it.restarts

    run_async(scenario)


def test_a_job_cancelled_in_work_is_killed_and_the_next_gets_its_own_answer(
    run_async, make_clip
) -> None:
    red, blue = make_clip("red"), make_clip("blue")

    async def scenario() -> None:
        async with decoding(job=MISBEHAVE) as it:
            for content in (red, b"loop"):
                (decoder,) = it.pool.process_ids[1:]
                job = asyncio.create_task(it.decode(content))
                await asyncio.sleep(0)
                job.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await job
                sampled = await it.decode(blue)
                np.testing.assert_array_equal(sampled.frames, read_clip(io.BytesIO(blue)))
                assert not is_running(decoder)
            assert it.restarts == {"cancelled": 2}

    run_async(scenario)


def test_the_line_for_a_decoder_ends_with_the_requests_time(
    run_async, gate: Gate, gated_job, red_clip: bytes
) -> None:
    async def scenario() -> None:
        async with decoding(job=gated_job) as it:
            running = asyncio.create_task(it.decode(red_clip))
            await asyncio.to_thread(gate.await_arrivals, 1)
            with pytest.raises(DeadlineError):
                await it.decode(red_clip, Deadline.after(0.05))
            gate.open()
            await running

    run_async(scenario)


def test_closing_finishes_what_is_in_work_and_refuses_the_line(
    run_async, gate: Gate, gated_job, red_clip: bytes
) -> None:
    async def scenario() -> None:
        async with decoding(job=gated_job) as it:
            running = asyncio.create_task(it.decode(red_clip))
            await asyncio.to_thread(gate.await_arrivals, 1)
            waiting = asyncio.create_task(it.decode(red_clip))
            await asyncio.sleep(0)
            closing = asyncio.create_task(it.pool.close())
            await asyncio.sleep(0)
            gate.open()
            assert (await running).info.frames_found == 30
            with pytest.raises(StoppingError):
                await waiting
            await closing
            it.pool = DecodePool(workers=1, limits=Limits(), timeout_s=1)

    run_async(scenario)


# --- time limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout_s", "deadline", "error"),
    [
        (1e-9, FAR, DecodeTimeoutError),
        (20, Deadline.after(0), DeadlineError),
        (1e-9, Deadline.after(0), DeadlineError),
    ],
)
def test_its_own_limit_is_the_videos_fault_the_requests_is_not(
    run_async, red_clip: bytes, timeout_s: float, deadline: Deadline, error: type[Exception]
) -> None:
    async def scenario() -> None:
        async with decoding(timeout_s=timeout_s) as it:
            with pytest.raises(error):
                await it.decode(red_clip, deadline)

    run_async(scenario)


@pytest.mark.parametrize("word", [b"loop", b"stop"])
def test_f53_a_decoder_that_does_not_come_back_is_killed_at_the_deadline(
    run_async, red_clip: bytes, word: bytes
) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, timeout_s=0.2) as it:
            (stuck,) = it.pool.process_ids[1:]
            with pytest.raises(DecodeTimeoutError):
                await it.decode(word)
            await until(lambda: not is_running(stuck))
            await it.until_refilled()
            assert it.restarts == {"timeout": 1}
        async with decoding(job=MISBEHAVE) as it:
            with pytest.raises(DeadlineError):
                await it.decode(word, Deadline.after(1))
            await it.decode(red_clip)
            assert it.restarts == {"timeout": 1}

    run_async(scenario)
