"""MicroBatcher: everyone gets their own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import Frames, MicroBatcher, Outcome
from service.errors import InferenceError, ModelOutputError, OverloadedError, StoppingError
from service.inference import OnnxModel, SessionConfig

#: The first byte of a clip says what the model does with it; the second is its answer.
GOOD, POISON, INVALID = 0, 1, 2


def make_frames(answer: int, kind: int = GOOD) -> Frames:
    return np.array([kind, answer], np.uint8)


class ScriptedModel:
    """Answers as the clips say and notes its batches."""

    def __init__(self, gate: Any = None) -> None:
        self.batches: list[list[int]] = []
        self._gate = gate

    def run(self, frames: Frames) -> Sequence[Outcome]:
        if self._gate is not None:
            self._gate.pass_through()
        self.batches.append(frames[:, 1].tolist())
        if (frames[:, 0] == POISON).any():
            raise RuntimeError("poisoned")
        return [
            ModelOutputError("invalid") if kind == INVALID else np.array([answer], np.float32)
            for kind, answer in frames.tolist()
        ]


@asynccontextmanager
async def batching(
    model: Any, *, max_batch_size: int = 8, max_queued: int = 64
) -> AsyncIterator[MicroBatcher]:
    batcher = MicroBatcher(
        model.run, name="test", max_batch_size=max_batch_size, max_queued=max_queued
    )
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


async def submit(batcher: MicroBatcher, answer: int, kind: int = GOOD) -> float:
    result = await batcher.submit(make_frames(answer, kind))
    return float(result.probabilities[0])


async def start(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that have got as far as they can, which is into the queue."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "service.batching")


def test_an_idle_model_starts_at_once_and_what_queued_meanwhile_is_the_next_batch(
    run_async, gate
) -> None:
    model = ScriptedModel(gate)

    async def scenario() -> list[float]:
        async with batching(model) as batcher:
            (first,) = await start(submit(batcher, 1))
            await asyncio.to_thread(gate.await_arrivals, 1)
            others = await start(*(submit(batcher, answer) for answer in (2, 3, 4)))
            assert batcher.queued == 3
            gate.open()
            return list(await asyncio.gather(first, *others))

    assert run_async(scenario) == [1, 2, 3, 4]
    assert model.batches == [[1], [2, 3, 4]]


def test_no_batch_is_larger_than_allowed(run_async, gate) -> None:
    model = ScriptedModel(gate)

    async def scenario() -> None:
        async with batching(model, max_batch_size=2) as batcher:
            tasks = await start(*(submit(batcher, answer) for answer in range(6)))
            await asyncio.to_thread(gate.await_arrivals, 1)
            gate.open()
            assert await asyncio.gather(*tasks) == list(range(6))

    run_async(scenario)
    assert max(len(batch) for batch in model.batches) == 2


def test_f19_a_disconnect_in_the_queue_is_never_run_and_the_others_are_answered(
    run_async, gate
) -> None:
    model = ScriptedModel(gate)

    async def scenario() -> None:
        async with batching(model) as batcher:
            (running,) = await start(submit(batcher, 1))
            await asyncio.to_thread(gate.await_arrivals, 1)
            tasks = await start(*(submit(batcher, answer) for answer in (2, 3, 4)))
            assert batcher.queued == 3
            tasks[1].cancel()
            await asyncio.sleep(0)
            gate.open()
            assert await asyncio.gather(running, tasks[0], tasks[2]) == [1, 2, 4]

    run_async(scenario)
    assert model.batches == [[1], [2, 4]]


def test_f19_a_disconnect_in_a_running_batch_answers_the_others(run_async, gate) -> None:
    model = ScriptedModel(gate)

    async def scenario() -> None:
        async with batching(model) as batcher:
            tasks = await start(*(submit(batcher, answer) for answer in (1, 2, 3)))
            await asyncio.to_thread(gate.await_arrivals, 1)
            tasks[0].cancel()
            await asyncio.sleep(0)
            gate.open()
            assert await asyncio.gather(*tasks[1:]) == [2, 3]
            assert await submit(batcher, 9) == 9

    run_async(scenario)


def test_f66_a_poison_clip_fails_alone(run_async) -> None:
    async def scenario() -> None:
        async with batching(ScriptedModel()) as batcher:
            results = await asyncio.gather(
                submit(batcher, 1),
                submit(batcher, 2, POISON),
                submit(batcher, 3),
                return_exceptions=True,
            )
            assert results[0] == 1
            assert isinstance(results[1], InferenceError)
            assert results[2] == 3
            assert await submit(batcher, 4) == 4

    run_async(scenario)


def test_f65_an_invalid_output_fails_its_clip_alone(run_async) -> None:
    model = ScriptedModel()

    async def scenario() -> None:
        async with batching(model) as batcher:
            results = await asyncio.gather(
                submit(batcher, 1), submit(batcher, 2, INVALID), return_exceptions=True
            )
            assert results[0] == 1
            assert isinstance(results[1], ModelOutputError)

    run_async(scenario)
    assert model.batches == [[1, 2]], "a batch with an invalid row is not run again"


def test_a_model_that_gives_too_few_results_fails_and_the_batcher_lives_on(run_async) -> None:
    class ShortModel(ScriptedModel):
        def run(self, frames: Frames) -> Sequence[Outcome]:
            outcomes = super().run(frames)
            return outcomes[:-1] if len(frames) > 1 or frames[0, 1] == 7 else outcomes

    async def scenario() -> None:
        async with batching(ShortModel()) as batcher:
            assert await asyncio.gather(submit(batcher, 1), submit(batcher, 2)) == [1, 2]
            with pytest.raises(InferenceError):
                await submit(batcher, 7)
            assert await submit(batcher, 3) == 3

    run_async(scenario)


def test_a_full_queue_refuses_at_once(run_async, gate) -> None:
    async def scenario() -> None:
        async with batching(ScriptedModel(gate), max_queued=1) as batcher:
            (running,) = await start(submit(batcher, 1))
            await asyncio.to_thread(gate.await_arrivals, 1)
            (waiting,) = await start(submit(batcher, 2))
            assert batcher.queued == 1
            with pytest.raises(OverloadedError):
                await submit(batcher, 3)
            gate.open()
            assert await asyncio.gather(running, waiting) == [1, 2]

    run_async(scenario)


def test_close_answers_those_who_wait_and_refuses_those_who_come(run_async, gate) -> None:
    async def scenario() -> None:
        async with batching(ScriptedModel(gate)) as batcher:
            tasks = await start(*(submit(batcher, answer) for answer in (1, 2, 3)))
            await asyncio.to_thread(gate.await_arrivals, 1)
            closing = asyncio.create_task(batcher.close())
            await asyncio.sleep(0)
            with pytest.raises(StoppingError):
                await submit(batcher, 4)
            gate.open()
            await closing
            assert await asyncio.gather(*tasks) == [1, 2, 3]

    run_async(scenario)


def test_the_times_it_reports_add_up_from_submit_to_answer(run_async, gate) -> None:
    async def scenario() -> None:
        async with batching(ScriptedModel(gate)) as batcher:
            (first,) = await start(batcher.submit(make_frames(1)))
            await asyncio.to_thread(gate.await_arrivals, 1)
            (second,) = await start(batcher.submit(make_frames(2)))
            assert batcher.queued == 1
            gate.open()
            ran, waited = await first, await second
            assert ran.queue_s >= 0
            assert 0 < waited.queue_s <= ran.infer_s
            assert waited.infer_s >= 0

    run_async(scenario)


def test_a_batchs_results_equal_those_of_single_runs(run_async, build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu"))
    clips = np.random.default_rng(1).integers(0, 256, (5, *manifest.clip_spec.shape), np.uint8)

    async def scenario() -> None:
        async with batching(model) as batcher:
            together = await asyncio.gather(*(batcher.submit(clip) for clip in clips))
            for clip, answer in zip(clips, together, strict=True):
                (alone,) = model.run(clip[np.newaxis])
                np.testing.assert_allclose(answer.probabilities, alone, rtol=0, atol=1e-6)

    run_async(scenario)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([GOOD, GOOD, POISON, INVALID])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=50, deadline=None)
@given(ACTIONS, st.integers(1, 4))
def test_whatever_the_order_each_gets_its_own_answer_or_its_own_error(
    actions: list[tuple[str, int]], max_batch_size: int
) -> None:
    expected = {GOOD: type(None), POISON: InferenceError, INVALID: ModelOutputError}

    async def scenario() -> None:
        async with batching(ScriptedModel(), max_batch_size=max_batch_size) as batcher:
            tasks: list[tuple[asyncio.Task[float], int, bool]] = []
            cancelled: set[int] = set()
            closing = None
            for action, argument in actions:
                if action == "submit":
                    task = asyncio.create_task(submit(batcher, len(tasks), argument))
                    tasks.append((task, argument, closing is not None))
                elif action == "cancel" and tasks:
                    cancelled.add(argument % len(tasks))
                    tasks[argument % len(tasks)][0].cancel()
                elif action == "close" and closing is None:
                    # Those before it have to be in the queue to count as before it.
                    await asyncio.sleep(0)
                    closing = asyncio.create_task(batcher.close())
                    await asyncio.sleep(0)
                for _ in range(argument if action == "wait" else 0):
                    await asyncio.sleep(0)
            if closing is not None:
                await closing
            await asyncio.wait_for(
                asyncio.gather(*(task for task, _, _ in tasks), return_exceptions=True), 20
            )
            for number, (task, kind, came_late) in enumerate(tasks):
                if task.cancelled():
                    assert number in cancelled
                elif came_late:
                    assert isinstance(task.exception(), StoppingError)
                else:
                    assert isinstance(task.exception(), expected[kind])
                    assert kind != GOOD or task.result() == number
            assert batcher.queued == 0

    asyncio.run(scenario())
