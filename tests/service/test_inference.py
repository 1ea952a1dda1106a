"""OnnxModel: nothing but the published, sound model is ever run, and its output is checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from clip import ClipSpec
from clip.manifest import METADATA_KEY
from service.batching import MicroBatcher
from service.cuda import CUDA_PROVIDER
from service.errors import GpuLostError, GpuMemoryError, ModelOutputError
from service.inference import OnnxModel
from service.session import CPU_PROVIDER, ONNX_RUNTIME, Engine, ModelLoadError, SessionConfig
from tests.service.fake_gpu import ILLEGAL_ACCESS, OUT_OF_MEMORY, FakeGpu

CPU = SessionConfig(device="cpu", max_batch_size=8)


def clips_of(*levels: int) -> np.ndarray:
    return np.stack([np.full(ClipSpec().shape, level, np.uint8) for level in levels])


def refused(content: bytes, manifest) -> str:
    with pytest.raises(ModelLoadError) as error:
        OnnxModel.load(content, manifest, CPU)
    return str(error.value)


def test_a_sound_model_runs_and_tells_where(build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, CPU)
    model.warm_up([1, 8])
    frames = clips_of(0, 0)
    frames[1, ..., 2] = 200
    grey, blue = model.run(frames)
    np.testing.assert_allclose(grey, [1 / 3] * 3, atol=1e-6)
    assert blue.argmax() == 2
    assert blue.dtype == np.float32
    assert model.provider == CPU_PROVIDER


def test_f62_other_bytes_than_were_published_are_refused(build_model) -> None:
    manifest, content = build_model()
    assert "sha256" in refused(content[:-1], manifest)
    assert "sha256" in refused(b"", manifest)
    assert "says nothing" in refused(content, replace(manifest, sha256=""))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09"])
def test_f62_bytes_that_are_no_model_are_refused_in_one_line(content: bytes, build_model) -> None:
    manifest, _ = build_model()
    message = refused(content, replace(manifest, sha256=sha256_of(content)))
    assert message.startswith("ONNX Runtime cannot load model.onnx")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("input_name", "the input must be 'frames' alone, the graph has images"),
        ("float_input", "input 'frames' is tensor(float), not tensor(uint8)"),
        ("fixed_batch", "input 'frames' has shape [1, 20, 64, 64, 3], not ['N', 20, 64, 64, 3]"),
    ],
)
def test_f62_a_graph_that_is_not_as_agreed_is_refused(build_model, flaw: str, reason: str) -> None:
    manifest, content = build_model(flaw=flaw)
    assert refused(content, manifest) == reason


def test_f62_another_clip_spec_or_number_of_classes_is_refused(build_model) -> None:
    manifest, content = build_model()
    larger = replace(manifest, clip_spec=ClipSpec(frames=10))
    assert "differs" in refused(content, larger)
    more = replace(manifest, classes=("a", "b", "c", "d"))
    assert "differs" in refused(content, more)
    content = with_metadata(content, replace(more, sha256="").to_json())
    resealed = replace(more, sha256=sha256_of(content))
    assert "output 'probabilities' has shape ['N', 3], not ['N', 4]" in refused(content, resealed)


def test_f62_classes_in_another_order_than_in_the_file_are_refused(build_model) -> None:
    manifest, content = build_model()
    assert "differs" in refused(content, replace(manifest, classes=("blue", "green", "red")))


def test_f62_a_file_without_its_record_is_refused(build_model) -> None:
    manifest, content = build_model()
    bare = with_metadata(content, None)
    assert METADATA_KEY in refused(bare, replace(manifest, sha256=sha256_of(bare)))


def test_f64_weights_outside_of_the_file_are_refused(build_model, tmp_path, monkeypatch) -> None:
    manifest, content = build_model()
    model = onnx.load_from_string(content)
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    monkeypatch.chdir(tmp_path)
    for location in ("weights.bin", "../../etc/passwd", str(tmp_path / "weights.bin")):
        set_external_data(weights, location, offset=0, length=len(weights.raw_data))
        outside = onnx.ModelProto.FromString(model.SerializeToString())
        for tensor in outside.graph.initializer:
            if tensor.name == "weights":
                tensor.ClearField("raw_data")
        content = outside.SerializeToString()
        assert "cannot load" in refused(content, replace(manifest, sha256=sha256_of(content)))


def test_f65_a_clip_with_nan_fails_alone(build_model) -> None:
    manifest, content = build_model(flaw="nan")
    model = OnnxModel.load(content, manifest, CPU)
    black, grey = model.run(clips_of(0, 100))
    assert isinstance(black, ModelOutputError)
    np.testing.assert_allclose(grey, [1 / 3] * 3, atol=1e-6)


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("unnormalised", "not a probability distribution"),
        ("negative", "not a probability distribution"),
        ("inf", "not finite"),
    ],
)
def test_f65_outputs_that_are_no_probabilities_are_refused(build_model, flaw, reason) -> None:
    manifest, content = build_model(flaw=flaw)
    model = OnnxModel.load(content, manifest, CPU)
    assert all(isinstance(outcome, ModelOutputError) for outcome in model.run(clips_of(0, 100)))
    with pytest.raises(ModelLoadError, match=reason):
        model.warm_up([1])


def test_a_model_that_cannot_run_is_found_out_by_the_warm_up(build_model) -> None:
    manifest, content = build_model(flaw="nan")
    with pytest.raises(ModelLoadError, match="not finite"):
        OnnxModel.load(content, manifest, CPU).warm_up([1])


def test_f65_an_output_of_another_shape_than_agreed_is_no_answer(build_model) -> None:
    manifest, content = build_model(flaw="short")
    model = OnnxModel.load(content, manifest, CPU)
    (alone,) = model.run(clips_of(0))
    assert not isinstance(alone, ModelOutputError)
    outcomes = model.run(clips_of(0, 0))
    assert [type(outcome) for outcome in outcomes] == [ModelOutputError] * 2
    assert "wrong shape" in outcomes[0].detail


# --- batches --------------------------------------------------------------------------------------


def test_a_result_is_not_overwritten_by_the_next_run(build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, CPU)
    blue, green = clips_of(0, 0)
    blue[..., 2] = green[..., 1] = 200
    (first,) = model.run([blue])
    kept = first.copy()
    model.run([green])
    np.testing.assert_array_equal(first, kept)


def test_clips_of_another_shape_or_too_many_are_no_batch(build_model) -> None:
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu", max_batch_size=2))
    for clips in ([clips_of(0)[0][:1]], clips_of(0, 0, 0), []):
        with pytest.raises(ValueError, match="clip"):
            model.run(clips)


@pytest.mark.parametrize("gpu", [None, FakeGpu()], ids=["cpu", "gpu"])
@pytest.mark.parametrize("buckets", [None, (1, 2, 4, 8), (8,), (3, 8)])
def test_padded_batches_answer_as_single_clips_do(build_model, buckets, gpu) -> None:
    manifest, content = build_model()
    engine, device = (ONNX_RUNTIME, "cpu") if gpu is None else (gpu, "cuda")
    model = OnnxModel.load(
        content,
        manifest,
        SessionConfig(device=device, max_batch_size=8, batch_buckets=buckets),
        engine,
    )
    clips = np.random.default_rng(1).integers(0, 256, (8, *manifest.clip_spec.shape), np.uint8)
    alone = [model.run([clip])[0] for clip in clips]
    for count in (8, 3, 5, 1, 2, 7):
        for outcome, expected in zip(model.run(clips[:count]), alone[:count], strict=True):
            np.testing.assert_allclose(outcome, expected, rtol=0, atol=1e-6)


def test_a_padded_batch_is_padded_with_black_not_with_someone_elses_clip(build_model) -> None:
    """White makes this model's run fail: were it left in the padding, every later run would."""
    manifest, content = build_model(flaw="raise")
    model = OnnxModel.load(content, manifest, SessionConfig(device="cpu", batch_buckets=(2, 8)))
    with pytest.raises(Exception, match="indices"):
        model.run(clips_of(0, 255))
    (grey,) = model.run(clips_of(100))
    np.testing.assert_allclose(grey, [1 / 3] * 3, atol=1e-6)


def test_batches_are_for_gpus_unless_they_are_asked_for(build_model) -> None:
    manifest, content = build_model()

    def largest(engine: Engine = ONNX_RUNTIME, **changes: Any) -> int:
        return OnnxModel.load(content, manifest, SessionConfig(**changes), engine).max_batch_size

    assert largest(device="cpu") == 1
    assert largest(FakeGpu()) == 8
    assert largest(device="cpu", max_batch_size=4) == 4
    assert largest(FakeGpu(), max_batch_size=2) == 2
    assert largest(device="cpu", batch_buckets=(2, 6)) == 6


def test_the_warm_up_runs_every_size_that_batches_are_padded_to(build_model) -> None:
    manifest, content = build_model()

    def sizes(engine: Engine = ONNX_RUNTIME, **changes: Any) -> tuple[int, ...]:
        return OnnxModel.load(content, manifest, SessionConfig(**changes), engine).warm_up_sizes

    assert sizes(device="cpu", max_batch_size=8) == (1, 8)
    assert sizes(device="cpu", max_batch_size=1) == (1,)
    assert sizes(device="cpu", batch_buckets=(2, 8)) == (2, 8)
    assert sizes(FakeGpu(), max_batch_size=8) == (1, 2, 4, 8)
    assert sizes(FakeGpu(), max_batch_size=6) == (1, 2, 4, 6)
    assert sizes(FakeGpu(), max_batch_size=1) == (1,)


def test_the_nodes_of_each_provider_are_counted(build_model) -> None:
    manifest, content = build_model()
    assert OnnxModel.load(content, manifest, CPU).nodes == {CPU_PROVIDER: 4}


# --- GPU, tested with one that is not there -------------------------------------------------------


def test_f67_device_auto_runs_on_the_cpu_where_there_is_no_gpu_and_is_quiet_about_it(
    build_model, capfd
) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(obstacle="there is none")
    model = OnnxModel.load(content, manifest, SessionConfig(device="auto"), gpu)
    assert model.provider == CPU_PROVIDER
    assert capfd.readouterr() == ("", "")


def test_f67_device_cuda_ends_the_start_with_the_reason(build_model, capfd) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(obstacle="there is no GPU")
    with pytest.raises(ModelLoadError, match=r"HAR_DEVICE=cuda, .*there is no GPU"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"), gpu)
    assert capfd.readouterr() == ("", "")


def test_f67_a_gpu_without_its_libraries_is_told_and_auto_goes_on_without_it(
    build_model, caplog
) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(complaint="libfoo is missing")
    model = OnnxModel.load(content, manifest, SessionConfig(device="auto"), gpu)
    assert model.provider == CPU_PROVIDER
    assert "libfoo is missing" in caplog.text
    with pytest.raises(ModelLoadError, match="libfoo is missing"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"), gpu)


def test_f67_a_silent_fallback_to_the_cpu_is_found_out(build_model, caplog) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(falls_back=True)
    with pytest.raises(ModelLoadError, match=f"fell back to {CPU_PROVIDER}"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"), gpu)
    model = OnnxModel.load(content, manifest, SessionConfig(device="auto"), gpu)
    assert model.provider == CPU_PROVIDER
    assert f"fell back to {CPU_PROVIDER}" in caplog.text


def test_cuda_is_asked_for_with_its_options_and_one_cpu_thread(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu()
    config = SessionConfig(intra_op_threads=4, cuda_graphs=True, gpu_memory_bytes=10**9)
    model = OnnxModel.load(content, manifest, config, gpu)
    assert model.provider == CUDA_PROVIDER
    (provider, options), fallback = gpu.asked_for
    assert (provider, fallback) == (CUDA_PROVIDER, CPU_PROVIDER)
    assert options["enable_cuda_graph"] == "1"
    assert options["gpu_mem_limit"] == "1000000000"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert options["use_tf32"] == "0"
    assert gpu.options.intra_op_num_threads == 1


def test_each_bucket_has_its_own_graph_and_device_memory_that_stays(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu()
    model = OnnxModel.load(content, manifest, SessionConfig(cuda_graphs=True), gpu)
    model.warm_up()
    assert [(clips, graph) for clips, graph, _ in gpu.runs] == [
        (1, "1"), (2, "2"), (4, "4"), (8, "8"),
    ] * 2  # fmt: skip
    allocated = list(gpu.allocated)
    assert len(allocated) == 8
    model.run(clips_of(0, 0, 0))
    assert gpu.runs[-1][:2] == (4, "4")
    assert gpu.allocated == allocated


def test_without_graphs_no_run_names_one(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu()
    OnnxModel.load(content, manifest, SessionConfig(), gpu).warm_up()
    assert dict(gpu.asked_for[:1])[CUDA_PROVIDER]["enable_cuda_graph"] == "0"
    assert {graph for _, graph, _ in gpu.runs} == {""}


def test_the_thread_that_warms_a_model_up_is_the_one_that_serves(build_model, run_async) -> None:
    manifest, content = build_model()
    gpu = FakeGpu()
    model = OnnxModel.load(content, manifest, SessionConfig(), gpu)
    model.warm_up()

    async def scenario() -> None:
        batcher = MicroBatcher(
            model.run, name="test", max_batch_size=8, max_queued=8, runner=model.runner
        )
        batcher.start()
        await batcher.submit(clips_of(0)[0])
        await batcher.close()

    run_async(scenario)
    assert len(gpu.runs) == 5
    assert len({thread for _, _, thread in gpu.runs}) == 1


def test_f68_memory_that_does_not_do_is_told_from_a_device_that_is_lost(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(failure=lambda clips: OUT_OF_MEMORY if clips > 2 else None)
    model = OnnxModel.load(content, manifest, SessionConfig(), gpu)
    with pytest.raises(GpuMemoryError):
        model.run(clips_of(0, 0, 0))
    assert len(model.run(clips_of(0, 0))) == 2
    gpu.failure = lambda clips: ILLEGAL_ACCESS
    with pytest.raises(GpuLostError) as error:
        model.run(clips_of(0))
    assert "illegal memory access" in error.value.reason
    assert "illegal" not in error.value.detail, "a client is told no library's words"
    gpu.failure = lambda clips: "the batch axis is wrong"
    with pytest.raises(RuntimeError, match="batch axis"):
        model.run(clips_of(0))


def test_f68_memory_that_never_comes_back_counts_as_a_lost_device(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu(failure=lambda clips: OUT_OF_MEMORY)
    model = OnnxModel.load(content, manifest, SessionConfig(), gpu)
    errors = []
    for _ in range(8):
        with pytest.raises((GpuMemoryError, GpuLostError)) as error:
            model.run(clips_of(0))
        errors.append(error.type)
    assert errors == [GpuMemoryError] * 7 + [GpuLostError]


def test_f68_a_success_in_between_means_that_memory_does_come_back(build_model) -> None:
    manifest, content = build_model()
    gpu = FakeGpu()
    model = OnnxModel.load(content, manifest, SessionConfig(), gpu)
    for _ in range(3):
        gpu.failure = lambda clips: OUT_OF_MEMORY
        for _ in range(7):
            with pytest.raises(GpuMemoryError):
                model.run(clips_of(0))
        gpu.failure = lambda clips: None
        model.run(clips_of(0))


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_metadata(content: bytes, record: str | None) -> bytes:
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    if record is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: record})
    serialized: bytes = model.SerializeToString()
    return serialized
