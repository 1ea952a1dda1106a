"""MicroBatcher where a GPU has too little memory, or is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from service.batching import Clips, MicroBatcher, Outcome
from service.errors import GpuLostError, GpuMemoryError
from tests.service.scripted import ScriptedModel, batching, start, submit


@pytest.mark.parametrize(("fits", "batches"), [(4, [8, 4, 4]), (3, [8, 4, 2, 2, 4, 2, 2])])
def test_f68_a_batch_that_is_too_large_for_the_gpu_is_halved_until_it_fits(
    run_async, gate, fits: int, batches: list[int]
) -> None:
    class SmallGpu(ScriptedModel):
        def run(self, clips: Clips) -> Sequence[Outcome]:
            outcomes = super().run(clips)
            if len(clips) > fits:
                raise GpuMemoryError
            return outcomes

    model = SmallGpu(gate)

    async def scenario() -> None:
        async with batching(model) as batcher:
            (first,) = await start(submit(batcher, 100))
            await asyncio.to_thread(gate.await_arrivals, 1)
            tasks = await start(*(submit(batcher, answer) for answer in range(8)))
            gate.open()
            assert await first == 100
            assert await asyncio.gather(*tasks) == list(range(8))

    run_async(scenario)
    assert [len(batch) for batch in model.batches] == [1, *batches]


def test_f68_a_clip_for_which_alone_there_is_no_gpu_memory_is_503_and_can_come_again(
    run_async,
) -> None:
    class FullGpu(ScriptedModel):
        full = True

        def run(self, clips: Clips) -> Sequence[Outcome]:
            if self.full:
                raise GpuMemoryError
            return super().run(clips)

    model = FullGpu()

    async def scenario() -> None:
        async with batching(model) as batcher:
            with pytest.raises(GpuMemoryError) as error:
                await submit(batcher, 1)
            assert error.value.headers["Retry-After"]
            model.full = False
            assert await submit(batcher, 2) == 2

    run_async(scenario)


def test_f68_a_lost_gpu_fails_everyone_and_is_reported_once(run_async, gate) -> None:
    lost: list[GpuLostError] = []

    class LostGpu(ScriptedModel):
        def run(self, clips: Clips) -> Sequence[Outcome]:
            super().run(clips)
            raise GpuLostError(reason="CUDA failure 700")

    model = LostGpu(gate)

    async def scenario() -> None:
        batcher = MicroBatcher(
            model.run, name="test", max_batch_size=2, max_queued=8, on_lost=lost.append
        )
        batcher.start()
        (first,) = await start(submit(batcher, 0))
        await asyncio.to_thread(gate.await_arrivals, 1)
        tasks = await start(*(submit(batcher, answer) for answer in range(1, 4)))
        gate.open()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [type(result) for result in results] == [GpuLostError] * 4
        assert len(set(results)) == 4, "each has an error, whose traceback grows, of its own"
        with pytest.raises(GpuLostError):
            await submit(batcher, 5)
        await batcher.close()

    run_async(scenario)
    assert [error.reason for error in lost] == ["CUDA failure 700"]
    assert model.batches == [[0], [1, 2], [3]], "the lost GPU is not tried again clip by clip"
