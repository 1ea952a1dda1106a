"""Deadline: cancels in time, and nothing else."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import service
from service.deadline import Deadline
from service.errors import DeadlineError, UploadTimeoutError


def test_it_cancels_what_is_still_going_on(run_async) -> None:
    cancelled = False

    async def scenario() -> None:
        nonlocal cancelled
        async with Deadline.after(0.0).enforce():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

    with pytest.raises(DeadlineError):
        run_async(scenario)
    assert cancelled


def test_it_raises_the_error_that_was_asked_for(run_async) -> None:
    async def scenario() -> None:
        async with Deadline.after(0.0).enforce(UploadTimeoutError):
            await asyncio.Event().wait()

    with pytest.raises(UploadTimeoutError):
        run_async(scenario)


class OtherTimeoutError(TimeoutError):
    pass


@pytest.mark.parametrize("own", [TimeoutError, OtherTimeoutError])
def test_a_timeout_of_the_bodys_own_passes_through(run_async, own: type[TimeoutError]) -> None:
    async def scenario() -> None:
        async with Deadline.after(60).enforce():
            raise own("of its own")

    with pytest.raises(own, match="of its own"):
        run_async(scenario)


def test_so_it_does_in_the_moment_of_the_deadline(run_async) -> None:
    async def scenario() -> None:
        async with Deadline.after(0.0).enforce():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OtherTimeoutError from None

    with pytest.raises(OtherTimeoutError):
        run_async(scenario)


def test_what_ends_in_time_is_left_alone(run_async) -> None:
    async def scenario() -> str:
        async with Deadline.after(60).enforce():
            return "in time"

    assert run_async(scenario) == "in time"


def test_it_counts_from_the_start_it_is_given() -> None:
    assert Deadline.after(5, since_s=100.0) == Deadline(105.0)
    assert Deadline(0.0).has_passed
    assert Deadline(0.0).remaining_s() == 0.0
    assert not Deadline.after(60).has_passed


def test_f70_no_duration_is_taken_from_the_wall_clock() -> None:
    wall_clock = re.compile(r"time\.time\(|datetime\.(now|utcnow)\(|perf_counter")
    for source in Path(service.__file__).parent.rglob("*.py"):
        assert not wall_clock.search(source.read_text()), source
