"""DecodePool: whatever a video does to its decoder stays there."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from clip.errors import ClipError, DecodeError
from service.errors import DecoderCrashedError
from service.forkserver import ForkServerError
from tests.open_files import expect_nothing_left_open
from tests.service.gate import WAIT_S, Gate
from tests.service.pools import (
    MEBIBYTE,
    MISBEHAVE,
    Decoding,
    decoding,
    is_running,
    until,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


# --- crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"crash", "crashed"),
        (b"exit", "crashed"),
        (b"lie", "crashed"),
        (b"boast", "crashed"),
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


def test_a_decoder_that_ends_by_a_signal_without_a_name_is_replaced(
    run_async, red_clip: bytes
) -> None:
    nameless = signal.SIGRTMIN + 1

    async def scenario() -> None:
        async with decoding() as it:
            (victim,) = it.pool.process_ids[1:]
            os.kill(victim, nameless)
            await until(lambda: not is_running(victim))
            assert (await it.decode(red_clip)).info.frames_found == 30

    run_async(scenario)


@pytest.mark.parametrize(
    ("what", "error", "told"),
    [
        (
            "service.forkserver.socket.socketpair",
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            "Too many open files; trying again",
        ),
        ("service.decoding.ForkServer.fork", MemoryError(), "cannot be replaced; trying again"),
    ],
    ids=["no descriptor", "anything"],
)
def test_f58_a_decoder_that_cannot_be_replaced_now_is_replaced_later(
    run_async, red_clip: bytes, monkeypatch: pytest.MonkeyPatch, caplog, what, error, told
) -> None:
    """Whatever it is must not cost its place."""
    monkeypatch.setattr("service.decoding._RETRY_S", 0.01)

    def fail(*_: object) -> None:
        raise error

    async def scenario() -> None:
        async with decoding(max_jobs=1) as it:
            with monkeypatch.context() as patch:
                patch.setattr(what, fail)
                assert (await it.decode(red_clip)).info.frames_found == 30
                await until(lambda: told in caplog.text)
            assert (await it.decode(red_clip)).info.frames_found == 30

    run_async(scenario)


def test_a_fork_server_that_owes_a_reply_is_asked_no_more(run_async) -> None:
    async def scenario() -> None:
        async with decoding() as it:
            server = it.pool._server
            assert server is not None
            server.broken = True
            with pytest.raises(ForkServerError, match="stuck"):
                await server.fork()

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


@pytest.fixture
def core_files() -> Iterator[None]:
    """As many as the system allows, whatever the shell that runs the tests does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.mark.usefixtures("core_files")
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
        with expect_nothing_left_open():
            async with decoding(job=MISBEHAVE, workers=2, max_jobs=5, timeout_s=0.2) as it:
                seen = set(it.pool.process_ids)
                for content in (red_clip, b"crash", b"no video", b"loop", *[red_clip] * 12):
                    with suppress(ClipError, DecoderCrashedError):
                        await it.decode(content)
                    seen.update(it.pool.process_ids)
            assert not any(map(is_running, seen))

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
