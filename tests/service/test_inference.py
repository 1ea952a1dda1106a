"""OnnxModel: nothing but the published, sound model is ever run, and its output is checked."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from clip import ClipSpec
from clip.manifest import METADATA_KEY
from service.errors import ModelOutputError
from service.inference import CPU_PROVIDER, ModelLoadError, OnnxModel, SessionConfig

CPU = SessionConfig(device="cpu")


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


def test_f65_outputs_that_do_not_sum_to_one_are_refused(build_model) -> None:
    manifest, content = build_model(flaw="unnormalised")
    model = OnnxModel.load(content, manifest, CPU)
    assert all(isinstance(outcome, ModelOutputError) for outcome in model.run(clips_of(0, 100)))
    with pytest.raises(ModelLoadError, match="not a probability distribution"):
        model.warm_up([1])


def test_a_model_that_cannot_run_is_found_out_by_the_warm_up(build_model) -> None:
    manifest, content = build_model(flaw="nan")
    with pytest.raises(ModelLoadError, match="not finite"):
        OnnxModel.load(content, manifest, CPU).warm_up([1])


def test_f67_device_auto_runs_on_the_cpu_where_there_is_no_gpu_and_is_quiet_about_it(
    build_model, capfd, monkeypatch
) -> None:
    monkeypatch.setattr("service.inference.find_gpu_obstacle", lambda: "there is none")
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="auto"))
    assert model.provider == CPU_PROVIDER
    assert capfd.readouterr() == ("", "")


def test_f67_device_cuda_ends_the_start_with_the_reason(build_model, capfd, monkeypatch) -> None:
    monkeypatch.setattr("service.inference.find_gpu_obstacle", lambda: "there is no GPU")
    manifest, content = build_model()
    with pytest.raises(ModelLoadError, match=r"HAR_DEVICE=cuda, .*there is no GPU"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"))
    assert capfd.readouterr() == ("", "")


def test_f67_a_gpu_without_its_libraries_is_told_and_auto_goes_on_without_it(
    build_model, caplog, monkeypatch
) -> None:
    monkeypatch.setattr("service.inference.find_gpu_obstacle", lambda: None)
    monkeypatch.setattr("service.inference.load_cuda_libraries", lambda: "libfoo is missing")
    manifest, content = build_model()
    model = OnnxModel.load(content, manifest, SessionConfig(device="auto"))
    assert model.provider == CPU_PROVIDER
    assert "libfoo is missing" in caplog.text
    with pytest.raises(ModelLoadError, match="libfoo is missing"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"))


def test_f67_a_silent_fallback_to_the_cpu_is_found_out(build_model, monkeypatch) -> None:
    """ONNX Runtime takes the CPU without a word where the provider does not load after all."""
    monkeypatch.setattr("service.inference._choose_providers", lambda device: [CPU_PROVIDER])
    manifest, content = build_model()
    with pytest.raises(ModelLoadError, match=f"fell back to {CPU_PROVIDER}"):
        OnnxModel.load(content, manifest, SessionConfig(device="cuda"))


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_metadata(content: bytes, record: str | None) -> bytes:
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    if record is not None:
        onnx.helper.set_model_props(model, {METADATA_KEY: record})
    serialized: bytes = model.SerializeToString()
    return serialized
