"""Pipeline: a file in, a Prediction out, no HTTP in sight."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from clip import Limits, SampledClip, sample_clip
from clip.errors import UnknownContainerError
from service.batching import Clips, Outcome
from service.deadline import Deadline
from service.decoding import DecodePool
from service.errors import DeadlineError, ModelOutputError
from service.inference import OnnxModel, SessionConfig
from service.metrics import Metrics
from service.pipeline import Pipeline, Prediction
from tests.service.gate import WAIT_S

FAR = Deadline.after(3600)


@asynccontextmanager
async def piping(model: OnnxModel, metrics: Metrics) -> AsyncIterator[Pipeline]:
    decoders = DecodePool(workers=1, limits=Limits(), timeout_s=20)
    pipeline = Pipeline(decoders, metrics, max_queued=8)
    pipeline.start([model])
    await decoders.start()
    try:
        yield pipeline
    finally:
        await pipeline.close()


def classify(
    model: OnnxModel, content: bytes, deadline: Deadline = FAR, metrics: Metrics | None = None
) -> Prediction:
    async def scenario() -> Prediction:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            async with piping(model, metrics or Metrics()) as pipeline:
                return await pipeline.classify(file, model, deadline)

    return asyncio.run(asyncio.wait_for(scenario(), WAIT_S))


@pytest.fixture(scope="module")
def model(build_model) -> OnnxModel:
    manifest, content = build_model(classes=("red", "green", "blue", "crimson"))
    return OnnxModel.load(content, manifest, SessionConfig(device="cpu"))


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_a_clip_gets_the_label_of_what_it_shows(model, make_clip, colour: str) -> None:
    prediction = classify(model, make_clip(colour))
    assert prediction.ranked()[0][0] == colour
    assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-6)
    assert prediction.clip.frames_found == 30
    assert len(prediction.clip.timestamps_s) == 20


def test_classes_of_equal_probability_keep_the_models_order(model, make_clip) -> None:
    ranked = classify(model, make_clip("red")).ranked()
    assert [name for name, _ in ranked][:2] == ["red", "crimson"]
    assert ranked[0][1] == ranked[1][1]


def test_every_stage_is_measured_once(model, make_clip) -> None:
    metrics = Metrics()
    classify(model, make_clip("green"), metrics=metrics)
    for stage in ("decode", "queue", "infer"):
        labels = {"stage": stage, "model": "colour"}
        count = metrics.registry.get_sample_value("har_stage_duration_seconds_count", labels)
        assert count == 1, stage
    labels = {"model": "colour", "label": "green"}
    assert metrics.registry.get_sample_value("har_predictions_total", labels) == 1
    assert metrics.registry.get_sample_value("har_video_duration_seconds_count") == 1


def test_a_model_that_is_retired_leaves_no_task(run_async, build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu"))

    async def scenario() -> None:
        before = asyncio.all_tasks()
        async with piping(model, Metrics()) as pipeline:
            assert len(asyncio.all_tasks() - before) == 1
            await pipeline.retire(model)
            assert asyncio.all_tasks() == before

    run_async(scenario)


def test_a_file_that_is_no_video_is_refused_and_counts_as_no_prediction(model) -> None:
    metrics = Metrics()
    with pytest.raises(UnknownContainerError):
        classify(model, b"PK\x03\x04 a zip", metrics=metrics)
    labels = {"model": "colour", "label": "red"}
    assert metrics.registry.get_sample_value("har_predictions_total", labels) == 0


def test_a_deadline_that_has_passed_ends_it(model, red_clip) -> None:
    with pytest.raises(DeadlineError):
        classify(model, red_clip, Deadline.after(0))


def test_the_deadline_runs_in_the_model_too(run_async, monkeypatch, gate, model, red_clip) -> None:
    class Decoded:
        """Decoders that are done at once."""

        async def decode(self, *_: object) -> SampledClip:
            return sample_clip(io.BytesIO(red_clip))

        async def close(self) -> None:
            pass

    run = OnnxModel.run

    def hold_up(model: OnnxModel, clips: Clips) -> Sequence[Outcome]:
        gate.pass_through()
        return run(model, clips)

    async def scenario() -> None:
        pipeline = Pipeline(Decoded(), Metrics(), max_queued=8)
        pipeline.start([model])
        with pytest.raises(DeadlineError):
            await pipeline.classify(io.BytesIO(), model, Deadline.after(0.05))
        gate.open()
        await pipeline.close()

    monkeypatch.setattr(OnnxModel, "run", hold_up)
    run_async(scenario)


def test_f65_an_output_that_is_no_distribution_is_an_error_not_an_answer(
    build_model, make_clip
) -> None:
    manifest, content = build_model(flaw="nan")
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu"))
    with pytest.raises(ModelOutputError):
        classify(model, make_clip((0, 0, 0)))
