"""DecodePool: as many at a time as told, and whatever a video does to its decoder stays there."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from clip import ClipSpec, Limits, read_clip
from clip.errors import ClipError, DecodeError, DecodeTimeoutError, UnknownContainerError
from service.deadline import Deadline
from service.decoder_protocol import UnexpectedError
from service.decoding import DecodePool
from service.errors import DeadlineError, DecoderCrashedError, StoppingError
from service.forkserver import ForkServerError
from tests.service.gate import WAIT_S, Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

FAR = Deadline.after(3600)
MISBEHAVE = "tests.service.decoder_jobs:misbehave"
MEBIBYTE = 1024 * 1024


@contextmanager
def file_of(content: bytes) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file


class Decoding:
    """A started pool, what it told of its restarts, and a shorter way to ask it."""

    def __init__(self, **options: Any) -> None:
        self.restarts: Counter[str] = Counter()
        defaults: dict[str, Any] = {"workers": 1, "limits": Limits(), "timeout_s": 20}
        self.pool = DecodePool(**(defaults | options), on_restart=self._note)

    def _note(self, reason: str) -> None:
        self.restarts[reason] += 1

    async def decode(self, content: bytes, deadline: Deadline = FAR) -> Any:
        with file_of(content) as file:
            return await self.pool.decode(file, ClipSpec(), deadline)

    async def ask(self, what: str) -> str:
        """What a decoder tells of itself."""
        with pytest.raises(DecodeError) as told:
            await self.decode(b"tell " + what.encode())
        return told.value.message

    async def until_refilled(self, workers: int = 1) -> None:
        await until(lambda: len(self.pool.process_ids) == workers + 1)


@asynccontextmanager
async def decoding(**options: Any) -> AsyncIterator[Decoding]:
    it = Decoding(**options)
    await it.pool.start()
    try:
        yield it
    finally:
        await it.pool.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it holds; the test's own bound ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - what it waits for happens in other processes
        await asyncio.sleep(0.005)


def is_running(process_id: int) -> bool:
    """Whether it is a process that is not dead: a zombie is."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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


# --- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"crash", "crashed"),
        (b"exit", "crashed"),
        (b"lie", "crashed"),
        (b"eat", "out_of_memory"),
    ],
)
def test_f52_a_crash_is_that_videos_and_its_decoder_is_replaced(
    run_async, red_clip: bytes, word: bytes, reason: str
) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, memory_bytes=256 * MEBIBYTE) as it:
            (before,) = it.pool.process_ids[1:]
            with pytest.raises(DecoderCrashedError):
                await it.decode(word)
            assert (await it.decode(red_clip)).info.frames_found == 30
            assert it.restarts == {reason: 1}
            assert it.pool.process_ids[1:] != [before]
            assert not is_running(before)

    run_async(scenario)


def test_f52_a_crash_leaves_the_other_decoders_alone(
    run_async, gate: Gate, gated_job, red_clip: bytes
) -> None:
    async def scenario() -> None:
        async with decoding(job=gated_job, workers=2) as it:
            jobs = [asyncio.create_task(it.decode(red_clip)) for _ in range(2)]
            await asyncio.to_thread(gate.await_arrivals, 2)
            os.kill(it.pool.process_ids[1], signal.SIGKILL)
            done, pending = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            (crashed,), (sibling,) = done, pending
            assert isinstance(crashed.exception(), DecoderCrashedError)
            gate.open()
            assert (await sibling).info.frames_found == 30

    run_async(scenario)


def test_what_a_decoder_says_unasked_reaches_nobody(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, workers=1) as it:
            with pytest.raises(DecodeError):
                await it.decode(b"chatter")
            for _ in range(3):
                assert (await it.decode(red_clip)).info.frames_found == 30
            assert it.restarts == {"crashed": 1}

    run_async(scenario)


def test_f55_all_processes_killed_at_once_come_back(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding(workers=2) as it:
            for victims in (it.pool.process_ids[1:], it.pool.process_ids[:1]):
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                await until(lambda victims=victims: not any(map(is_running, victims)))
                # Decoders whose fork server was killed end a moment later.
                for _ in range(4):
                    try:
                        await it.decode(red_clip)
                    except DecoderCrashedError:
                        continue
                assert (await it.decode(red_clip)).info.frames_found == 30
                await it.until_refilled(2)

    run_async(scenario)


def test_f56_a_storm_of_crashers_delays_the_others_and_no_more(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, workers=2) as it:
            contents = [b"crash" if number % 5 else red_clip for number in range(50)]
            answers = await asyncio.gather(*map(it.decode, contents), return_exceptions=True)
            for content, answer in zip(contents, answers, strict=True):
                if content is red_clip:
                    assert not isinstance(answer, BaseException)
                else:
                    assert isinstance(answer, DecoderCrashedError)
            assert it.restarts == {"crashed": 40}

    run_async(scenario)


def test_f54_a_decoder_is_replaced_after_so_many_jobs(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, max_jobs=3) as it:
            process_ids = [await it.ask("pid") for _ in range(7)]
        assert [process_ids.count(one) for one in dict.fromkeys(process_ids)] == [3, 3, 1]
        assert it.restarts == {"recycled": 2}

    run_async(scenario)


# --- confinement ----------------------------------------------------------------------------------


def test_a_decoder_has_neither_the_services_modules_nor_its_environment(
    run_async, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAR_SECRET", "x")

    async def scenario() -> None:
        async with decoding(job=MISBEHAVE) as it:
            assert await it.ask("modules") == "none"
            assert "HAR_SECRET" not in await it.ask("environment")

    run_async(scenario)


def test_a_decoder_is_confined(run_async) -> None:
    async def scenario() -> None:
        async with decoding(job=MISBEHAVE, memory_bytes=256 * MEBIBYTE, timeout_s=5) as it:
            file_bytes, core_bytes, cpu_s, memory_bytes = map(int, (await it.ask("limits")).split())
            assert (file_bytes, core_bytes) == (0, 0)
            assert 5 < cpu_s < 60
            assert 256 * MEBIBYTE < memory_bytes < 1024 * MEBIBYTE
            assert await it.ask("privileges") == "1"
            assert await it.ask("opening") == "Too many open files"

    run_async(scenario)


# --- start and stop -------------------------------------------------------------------------------


def test_it_leaves_no_process_and_no_open_file(run_async, red_clip: bytes) -> None:
    async def scenario() -> None:
        files = count_open_files()
        async with decoding(job=MISBEHAVE, workers=2, max_jobs=5, timeout_s=0.2) as it:
            seen = set(it.pool.process_ids)
            for content in (red_clip, b"crash", b"no video", b"loop", *[red_clip] * 12):
                with suppress(ClipError, DecoderCrashedError):
                    await it.decode(content)
                seen.update(it.pool.process_ids)
        assert not any(map(is_running, seen))
        assert count_open_files() == files

    run_async(scenario)


def test_a_job_that_does_not_exist_ends_the_start(run_async, capfd) -> None:
    async def scenario() -> None:
        it = Decoding(job="tests.service.decoder_jobs:nothing")
        with pytest.raises(ForkServerError, match="has ended"):
            await it.pool.start()
        await it.pool.close()

    run_async(scenario)
    assert "AttributeError" in capfd.readouterr().err


def test_f69_a_killed_service_takes_its_decoders_along() -> None:
    program = f"""
import asyncio, tempfile
from clip import ClipSpec, Limits
from service.deadline import Deadline
from service.decoding import DecodePool

async def main():
    pool = DecodePool(workers=2, limits=Limits(), timeout_s=60, job={MISBEHAVE!r})
    await pool.start()
    print(*pool.process_ids, flush=True)
    with tempfile.TemporaryFile() as file:
        file.write(b"loop")
        file.flush()
        await pool.decode(file, ClipSpec(), Deadline.after(60))

asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        children = [int(text) for text in process.stdout.readline().split()]
        assert len(children) == 3
        process.kill()
    give_up_s = time.monotonic() + WAIT_S
    while any(map(is_running, children)):
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_too_little_memory_is_told_at_the_start(
    run_async, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.decoding.find_available_memory", lambda: 1024 * MEBIBYTE)

    async def scenario(memory_bytes: int) -> None:
        async with decoding(workers=2, memory_bytes=memory_bytes):
            pass

    run_async(lambda: scenario(512 * MEBIBYTE))
    assert not caplog.records
    run_async(lambda: scenario(513 * MEBIBYTE))
    assert "HAR_DECODERS=2 x HAR_DECODER_MEMORY_BYTES=537919488 is 1.0 GiB" in caplog.text
