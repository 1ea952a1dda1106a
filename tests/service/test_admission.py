"""Admission: so many in work, so many in the line, everyone else refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.admission
from service.admission import Admission
from service.deadline import Deadline
from service.errors import DeadlineError, OverloadedError

FAR = Deadline.after(3600)


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


class Visitor:
    """A request that holds its permit until it is told to go."""

    def __init__(self, admission: Admission, deadline: Deadline = FAR, line: str = "") -> None:
        self.line = line
        self.is_in = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission, deadline))

    async def _visit(self, admission: Admission, deadline: Deadline) -> None:
        async with admission.admit(deadline, line=self.line):
            self.is_in = True
            await self._leave.wait()
        self.is_in = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


def test_the_line_moves_up_in_order(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=2)
        first, second, third = (Visitor(admission) for _ in range(3))
        await settle()
        assert (first.is_in, second.is_in, third.is_in) == (True, False, False)
        assert (admission.in_flight, admission.waiting) == (1, 2)
        await first.leave()
        await settle()
        assert (second.is_in, third.is_in) == (True, False)
        await second.leave()
        await third.leave()
        assert (admission.in_flight, admission.waiting) == (0, 0)

    run_async(scenario)


def test_a_full_house_refuses_at_once_and_says_when_to_come_back(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=0)
        inside = Visitor(admission)
        await settle()
        with pytest.raises(OverloadedError) as refused:
            async with admission.admit(FAR):
                pytest.fail("admitted")
        assert int(refused.value.headers["Retry-After"]) >= 1
        await inside.leave()
        async with admission.admit(FAR):
            pass

    run_async(scenario)


def test_f61_the_lines_take_turns_whatever_their_length(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=3)
        inside = Visitor(admission, line="a")
        await settle()
        crowd = [Visitor(admission, line="a") for _ in range(3)]
        await settle()
        with pytest.raises(OverloadedError):
            async with admission.admit(FAR, line="a"):
                pytest.fail("admitted")
        others = [Visitor(admission, line="b") for _ in range(2)]
        await settle()
        order: list[str] = []
        while inside:
            await inside.leave()
            await settle()
            inside = next((one for one in crowd + others if one.is_in), None)
            order += [inside.line] if inside else []
        assert order == ["a", "b", "a", "b", "a"]
        assert (admission.in_flight, admission.waiting) == (0, 0)

    run_async(scenario)


def test_one_who_gives_up_in_the_line_leaves_no_gap(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=1)
        inside, waiting = Visitor(admission), Visitor(admission)
        await settle()
        waiting.task.cancel()
        await settle()
        assert admission.waiting == 0
        following = Visitor(admission)
        await settle()
        await inside.leave()
        await settle()
        assert following.is_in
        await following.leave()

    run_async(scenario)


@pytest.mark.parametrize("turns", range(4))
def test_a_permit_that_comes_as_its_taker_gives_up_goes_to_the_next(run_async, turns: int) -> None:
    """Before the permit comes, between its coming and its taking, and after it."""

    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=2)
        inside, leaving, following = (Visitor(admission) for _ in range(3))
        await settle()
        inside._leave.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.task.cancel()
        await settle()
        assert following.is_in
        await following.leave()
        assert (admission.in_flight, admission.waiting) == (0, 0)

    run_async(scenario)


def test_the_deadline_runs_in_the_line_too(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=1)
        inside = Visitor(admission)
        await settle()
        late = Visitor(admission, Deadline.after(0.0))
        with pytest.raises(DeadlineError):
            await late.task
        assert admission.waiting == 0
        await inside.leave()

    run_async(scenario)


def test_a_failing_request_gives_its_permit_back(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=0)
        with pytest.raises(KeyError):
            async with admission.admit(FAR):
                raise KeyError
        assert admission.in_flight == 0
        async with admission.admit(FAR):
            pass

    run_async(scenario)


def test_retry_after_grows_with_the_line_and_stays_within_a_minute(run_async) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=1, max_waiting=500)
        few = [Visitor(admission) for _ in range(3)]
        await settle()
        short = admission.retry_after_s()
        many = [Visitor(admission) for _ in range(400)]
        await settle()
        assert 1 <= short < admission.retry_after_s() <= 60
        for visitor in few + many:
            visitor.task.cancel()
        await settle()
        assert (admission.in_flight, admission.waiting) == (0, 0)

    run_async(scenario)


def test_retry_after_is_how_long_those_who_are_here_will_take(run_async, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(service.admission, "time", SimpleNamespace(monotonic=lambda: now))

    async def scenario() -> None:
        nonlocal now
        admission = Admission(max_in_flight=2, max_waiting=2)
        for _ in range(50):
            async with admission.admit(FAR):
                now += 10.0
        visitors = [Visitor(admission) for _ in range(4)]
        await settle()
        assert admission.retry_after_s() == 20  # two at a time, ten seconds each
        for visitor in visitors:
            await visitor.leave()

    run_async(scenario)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "come to b", "leave", "give up"]), st.integers(0, 7))
    )
)
def test_whatever_the_order_the_bounds_hold_and_nobody_waits_for_a_free_place(
    steps: Sequence[tuple[str, int]],
) -> None:
    async def scenario() -> None:
        admission = Admission(max_in_flight=2, max_waiting=2)
        visitors: list[Visitor] = []
        for action, which in steps:
            if action.startswith("come"):
                visitors.append(Visitor(admission, line=action.removeprefix("come")))
            elif visitors:
                visitor = visitors.pop(which % len(visitors))
                if action == "leave":
                    visitor._leave.set()
                else:
                    visitor.task.cancel()
            await settle()
            visitors = [visitor for visitor in visitors if not _is_refused(visitor.task)]
            inside = sum(visitor.is_in for visitor in visitors)
            assert admission.in_flight <= 2
            assert admission.waiting <= 2 * 2
            assert not (admission.waiting and admission.in_flight < 2)
            assert inside <= admission.in_flight
        for visitor in visitors:
            visitor.task.cancel()
        await settle()
        assert (admission.in_flight, admission.waiting) == (0, 0)

    asyncio.run(scenario())


def _is_refused(task: asyncio.Task[None]) -> bool:
    if not task.done() or task.cancelled():
        return False
    assert isinstance(task.exception(), OverloadedError | None)
    return True
