"""MicroBatcher: everyone gets their own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.batching import Clips, MicroBatcher, Outcome
from service.errors import (
    InferenceError,
    ModelOutputError,
    OverloadedError,
    StoppingError,
)
from service.inference import OnnxModel, SessionConfig
from tests.service.scripted import (
    INVALID,
    POISON,
    ScriptedModel,
    batching,
    make_frames,
    start,
    submit,
)


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


def test_f19_a_disconnect_in_the_moment_in_which_a_batch_is_formed_is_never_run(run_async) -> None:
    model = ScriptedModel()

    async def scenario() -> None:
        async with batching(model) as batcher:
            await asyncio.sleep(0)  # it waits for work
            (given_up,) = await start(submit(batcher, 1))
            given_up.cancel()  # its place is given back after the batch has been formed
            await asyncio.wait([given_up])
            assert await submit(batcher, 2) == 2

    run_async(scenario)
    assert model.batches == [[2]]


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
        def run(self, clips: Clips) -> Sequence[Outcome]:
            outcomes = super().run(clips)
            return outcomes[:-1] if len(clips) > 1 or clips[0][1] == 7 else outcomes

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


def test_a_clip_that_was_given_up_takes_nobodys_place_in_the_queue(run_async, gate) -> None:
    async def scenario() -> None:
        async with batching(ScriptedModel(gate), max_queued=2) as batcher:
            (running,) = await start(submit(batcher, 1))
            await asyncio.to_thread(gate.await_arrivals, 1)
            (first, given_up) = await start(submit(batcher, 2), submit(batcher, 3))
            given_up.cancel()
            await asyncio.wait([given_up])
            assert batcher.queued == 1
            (last,) = await start(submit(batcher, 4))
            gate.open()
            assert await asyncio.gather(running, first, last) == [1, 2, 4]

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
            began_s = time.monotonic()
            (first,) = await start(batcher.submit(make_frames(1)))
            await asyncio.to_thread(gate.await_arrivals, 1)
            (second,) = await start(batcher.submit(make_frames(2)))
            assert batcher.queued == 1
            gate.open()
            ran, waited = await first, await second
            assert 0 <= ran.queue_s <= time.monotonic() - began_s - ran.infer_s
            assert 0 < waited.queue_s <= ran.infer_s
            assert waited.infer_s >= 0

    run_async(scenario)


def test_a_batchs_results_equal_those_of_single_runs(run_async, build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu", max_batch_size=8))
    clips = np.random.default_rng(1).integers(0, 256, (5, *manifest.clip_spec.shape), np.uint8)

    async def scenario() -> None:
        async with batching(model) as batcher:
            together = await asyncio.gather(*(batcher.submit(clip) for clip in clips))
            for clip, answer in zip(clips, together, strict=True):
                (alone,) = model.run(clip[np.newaxis])
                np.testing.assert_allclose(answer.probabilities, alone, rtol=0, atol=1e-6)

    run_async(scenario)


def test_an_observer_that_fails_stops_nobody(run_async) -> None:
    def fail(clips: int) -> None:
        raise RuntimeError("observer")

    async def scenario() -> None:
        batcher = MicroBatcher(
            ScriptedModel().run, name="test", max_batch_size=2, max_queued=8, observe_batch=fail
        )
        batcher.start()
        assert [await submit(batcher, answer) for answer in (1, 2)] == [1, 2]
        await batcher.close()

    run_async(scenario)


def test_a_runner_thread_that_is_gone_fails_the_clip_not_the_batcher(run_async) -> None:
    runner = ThreadPoolExecutor(1)
    runner.shutdown()

    async def scenario() -> None:
        batcher = MicroBatcher(
            ScriptedModel().run, name="test", max_batch_size=2, max_queued=8, runner=runner
        )
        batcher.start()
        for _ in range(2):
            with pytest.raises(InferenceError):
                await submit(batcher, 1)
        await batcher.close()

    run_async(scenario)
