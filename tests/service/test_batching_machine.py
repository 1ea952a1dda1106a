"""MicroBatcher as a state machine: submitted to, given up on, broken and closed in any order.

Every clip carries its number in its pixels, and the model answers with it: a result that went to
someone else would be seen. Hypothesis holds the model's runs at a gate and lets them through one by
one, so that everything else can happen before, during and between the runs of a batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from service.batching import BatchAnswer, Clips, Frames, MicroBatcher, Outcome
from service.errors import (
    GpuMemoryError,
    InferenceError,
    ModelOutputError,
    OverloadedError,
    StoppingError,
)
from tests.service.gate import WAIT_S

GOOD, POISON, INVALID = 0, 1, 2
#: What is wrong with the model as a whole.
SOUND, BATCHES_FAIL, ALL_FAIL, TOO_FEW_RESULTS, LITTLE_MEMORY, NO_MEMORY = range(6)


def draw_clip(number: int, kind: int) -> Frames:
    return np.array([kind, number >> 8, number & 255], np.uint8)


def read_number(clip: Frames) -> int:
    return int(clip[1]) << 8 | int(clip[2])


class GatedModel:
    """Runs when it is let; notes for every clip what became of it."""

    def __init__(self) -> None:
        self.fault = SOUND
        self.at_gate = threading.Event()
        self.runs_done = 0
        self.largest = 0
        self.started: set[int] = set()
        #: Clip -> the kinds of result it was given; each must get one, once.
        self.results: Counter[tuple[int, type]] = Counter()
        self._permits = threading.Semaphore(0)
        self._open = False

    def let_one_through(self) -> None:
        self._permits.release()

    def open_gate(self) -> None:
        self._open = True
        self._permits.release()

    def run(self, clips: Clips) -> Sequence[Outcome]:
        numbers = [read_number(clip) for clip in clips]
        self.started.update(numbers)
        self.largest = max(self.largest, len(clips))
        if not self._open:
            self.at_gate.set()
            self._permits.acquire()
            self.at_gate.clear()
        try:
            return self._answer(clips, numbers)
        finally:
            self.runs_done += 1

    def _answer(self, clips: Clips, numbers: list[int]) -> Sequence[Outcome]:
        alone = len(clips) == 1
        if self.fault == NO_MEMORY or (self.fault == LITTLE_MEMORY and len(clips) > 2):
            self._note(numbers, GpuMemoryError if alone else None)
            raise GpuMemoryError
        broken = self.fault == ALL_FAIL or (self.fault == BATCHES_FAIL and not alone)
        if broken or any(clip[0] == POISON for clip in clips):
            self._note(numbers, InferenceError if alone else None)
            raise RuntimeError("the whole run fails")
        if self.fault == TOO_FEW_RESULTS:
            self._note(numbers, InferenceError if alone else None)
            return [np.array([number], np.float32) for number in numbers[1:]]
        outcomes: list[Outcome] = []
        for clip, number in zip(clips, numbers, strict=True):
            if clip[0] == INVALID:
                outcomes.append(ModelOutputError("invalid"))
                self._note([number], ModelOutputError)
            else:
                outcomes.append(np.array([number], np.float32))
                self._note([number], BatchAnswer)
        return outcomes

    def _note(self, numbers: list[int], result: type | None) -> None:
        if result is not None:
            self.results.update((number, result) for number in numbers)


@dataclass
class Submitted:
    """A clip that somebody waits for, or waited for."""

    task: asyncio.Task[BatchAnswer]
    given_up: bool = False
    #: It was given up before the model had it.
    never_run: bool = False


class BatcherMachine(RuleBasedStateMachine):
    @initialize(max_batch_size=st.integers(1, 4), max_queued=st.integers(1, 6), deaf=st.booleans())
    def open(self, max_batch_size: int, max_queued: int, *, deaf: bool) -> None:
        logging.getLogger("service.batching").disabled = True
        self.loop = asyncio.new_event_loop()
        self.model = GatedModel()
        self.max_batch_size, self.max_queued = max_batch_size, max_queued
        self.submitted: list[Submitted] = []
        self.closing: asyncio.Task[None] | None = None

        def observe(clips: int) -> None:
            if deaf:
                raise RuntimeError("an observer that fails")

        self.batcher = MicroBatcher(
            self.model.run,
            name="machine",
            max_batch_size=max_batch_size,
            max_queued=max_queued,
            observe_batch=observe,
        )
        self.in_loop(self.batcher.start)
        self.settle()

    def in_loop(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        self.loop.run_until_complete(act())

    def wait(self, condition: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < give_up_s, "the batcher has come to a stand"
            self.loop.run_until_complete(asyncio.sleep(0))

    def settle(self) -> None:
        """Return when nothing moves any more: a run is held up, or there is nothing to run."""
        self.in_loop(lambda: None)
        self.wait(
            lambda: (
                self.model.at_gate.is_set()
                or (not self.batcher.queued and all(one.task.done() for one in self.submitted))
            )
        )

    @rule(kinds=st.lists(st.sampled_from([GOOD, GOOD, GOOD, POISON, INVALID]), min_size=1))
    def submit_some(self, kinds: list[int]) -> None:
        for kind in kinds:
            self.submit(kind)

    def submit(self, kind: int) -> None:
        has_room = self.batcher.queued < self.max_queued
        clip = draw_clip(len(self.submitted), kind)
        task = self.loop.create_task(self.batcher.submit(clip))
        self.in_loop(lambda: None)
        if self.closing is not None:
            assert isinstance(task.exception(), StoppingError)
        elif not has_room:
            assert isinstance(task.exception(), OverloadedError)
        else:
            self.submitted.append(Submitted(task))
        self.settle()

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.submitted) - 1))
        one = self.submitted[number]
        if one.task.cancel():
            one.given_up = True
            one.never_run = number not in self.model.started
        self.settle()

    @rule(fault=st.sampled_from(range(6)))
    def break_or_mend_the_model(self, fault: int) -> None:
        self.model.fault = fault

    @precondition(lambda self: self.model.at_gate.is_set())
    @rule()
    def let_one_run_through(self) -> None:
        done = self.model.runs_done
        self.model.let_one_through()
        self.wait(lambda: self.model.runs_done > done)
        self.settle()

    @precondition(lambda self: self.closing is None and self.submitted)
    @rule()
    def close(self) -> None:
        self.closing = self.loop.create_task(self.batcher.close())
        self.settle()

    @invariant()
    def queue_and_batches_are_bounded(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.queued <= self.max_queued
            assert self.model.largest <= self.max_batch_size

    @invariant()
    def whoever_is_answered_has_an_answer_of_their_own(self) -> None:
        for number, one in enumerate(getattr(self, "submitted", [])):
            if not one.task.done():
                continue
            if one.task.cancelled():
                assert one.given_up, "a clip was cancelled with another"
                continue
            error = one.task.exception()
            result = BatchAnswer if error is None else type(error)
            assert self.model.results[number, result] == 1
            if error is None:
                assert one.task.result().probabilities.tolist() == [number]

    def teardown(self) -> None:
        logging.getLogger("service.batching").disabled = False
        if not hasattr(self, "batcher"):
            return
        self.model.open_gate()
        try:
            self.end()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.in_loop(lambda: None)
            self.loop.close()

    def end(self) -> None:
        self.wait(lambda: not self.model.at_gate.is_set() and not self.batcher.queued)
        self.wait(lambda: all(one.task.done() for one in self.submitted))
        self.model.fault = SOUND
        if self.closing is None:
            self.submit(GOOD)
            last = self.submitted[-1].task
            self.wait(last.done)
            assert last.result().probabilities.tolist() == [len(self.submitted) - 1]
            self.closing = self.loop.create_task(self.batcher.close())
        self.wait(self.closing.done)
        self.closing.result()
        self.whoever_is_answered_has_an_answer_of_their_own()
        given = Counter(number for number, _ in self.model.results.elements())
        for number, one in enumerate(self.submitted):
            assert given[number] <= 1, "a clip was answered twice"
            assert given[number] == 1 or one.given_up
            assert not (one.never_run and number in self.model.started)
        assert not asyncio.all_tasks(self.loop)


BatcherMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


class TestMicroBatcher(BatcherMachine.TestCase):
    """Hypothesis' way to make a test of the machine."""
