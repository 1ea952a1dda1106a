"""python -m service.doctor: healthy where the service would work, else the reason.

The decoder it tries is a real one; the clip it makes is decoded by the code that serves.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from clip import ClipSpec, Limits, sample_clip
from clip.specimen import COLOURS, find_difference, write_specimen
from service.doctor import (
    describe_nodes,
    examine_connections,
    examine_decoder,
    examine_memory,
    examine_models,
    examine_provider,
    examine_spool,
    examine_threads,
    main,
    probe_provider,
)
from service.session import CPU_PROVIDER
from service.settings import Settings, SettingsError, count_usable_cpus

Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """doctor(arguments, variables...) -> (exit code, what it printed)."""

    def run(*arguments: str, **variables: object) -> tuple[int, str]:
        values = {"MODELS_DIR": models_dir, "SPOOL_DIR": tmp_path / "spool", "DECODERS": 1}
        for name in [name for name in os.environ if name.startswith("HAR_")]:
            monkeypatch.delenv(name)
        for name, value in (values | variables).items():
            monkeypatch.setenv(f"HAR_{name}", str(value))
        code = main(arguments)
        return code, capsys.readouterr().out

    return run


def test_a_machine_that_is_fit_is_healthy_and_every_part_was_looked_at(doctor: Doctor) -> None:
    code, out = doctor("--json")
    report = json.loads(out)
    assert (code, report["healthy"]) == (0, True)
    details = {finding["name"]: finding["detail"] for finding in report["findings"]}
    assert "onnxruntime 1." in details["versions"]
    assert details[CPU_PROVIDER] == "loads"
    assert details["model lrcn/1"].startswith("4 nodes on CPUExecutionProvider; 3 classes")
    assert {"model tiny/1", "model tiny/2"} <= set(details)
    assert details["default model"] == "lrcn"
    assert "colours are right" in details["decoder"]
    assert {"threads", "connections", "memory", "spool", "tracing"} <= set(details)
    assert "settings" not in details


def test_it_reads_well_too(doctor: Doctor) -> None:
    code, out = doctor(DECODER=3)
    lines = out.splitlines()
    assert (code, lines[-1]) == (0, "healthy")
    assert "ok       default model: lrcn" in lines
    assert "warning  settings: no such setting: HAR_DECODER (HAR_DECODERS?)" in lines


@pytest.mark.parametrize(
    ("variables", "name", "reason"),
    [
        ({"MODELS_DIR": "/nonexistent"}, "models", "no such folder"),
        ({"SPOOL_DIR": "/dev/null/spool"}, "spool", "HAR_SPOOL_DIR"),
        ({"DECODER_MEMORY_BYTES": "x"}, "settings", "HAR_DECODER_MEMORY_BYTES=x"),
        ({"MIN_SPOOL_FREE_BYTES": 2**62}, "spool", "GiB free"),
        ({"TRACING": 1}, "tracing", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_what_keeps_the_service_from_working_is_not_healthy(
    doctor: Doctor, variables: dict[str, Any], name: str, reason: str
) -> None:
    code, out = doctor("--json", **variables)
    report = json.loads(out)
    assert (code, report["healthy"]) == (1, False)
    (finding,) = [one for one in report["findings"] if one["name"] == name]
    assert finding["status"] == "failed"
    assert reason in finding["detail"]


def test_a_decoder_that_does_not_do_its_work_is_found_out(make_clip) -> None:
    def write_bytes(content: bytes) -> Callable[[BinaryIO], None]:
        def write(file: BinaryIO) -> None:
            file.write(content)
            file.flush()

        return write

    settings = Settings(decoders=1)
    finding = asyncio.run(examine_decoder(settings, write_bytes(b"no video")))
    assert finding.status == "failed"
    assert finding.detail.startswith("UnknownContainerError")
    finding = asyncio.run(examine_decoder(settings, write_bytes(make_clip("blue"))))
    assert finding.status == "failed"
    assert "grey levels off" in finding.detail


def test_limits_that_the_specimen_would_not_keep_to_are_no_fault_of_the_decoder() -> None:
    settings = Settings(
        decoders=1, max_pixels=100, max_frames=20, max_duration_s=1, max_upload_bytes=500
    )
    finding = asyncio.run(examine_decoder(settings))
    assert finding.status == "ok", finding.detail


def test_the_specimen_is_right_and_a_wrong_decoding_of_it_is_told() -> None:
    file = io.BytesIO()
    write_specimen(file)
    frames = sample_clip(file, ClipSpec(frames=6), Limits()).frames
    assert find_difference(frames) is None
    assert f"colour {COLOURS[0]}" in str(find_difference(frames[..., ::-1]))
    assert f"colour {COLOURS[0]}" in str(find_difference(np.roll(frames, 2, axis=0)))


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_f67_a_provider_that_does_not_load_is_told_with_the_library_it_misses() -> None:
    name = "CUDAExecutionProvider"
    loads, reason = probe_provider(name)
    assert not loads
    for device, status in (("cpu", "ok"), ("auto", "ok"), ("cuda", "failed")):
        finding = examine_provider(name, Settings(device=device))
        assert finding.status == status
        assert reason in finding.detail
        assert "there is no NVIDIA driver" in finding.detail or "no CUDA" in finding.detail


def test_a_provider_that_nobody_ever_heard_of_does_not_load() -> None:
    loads, reason = probe_provider("NoSuchExecutionProvider")
    assert not loads
    assert reason


def test_a_model_that_is_bad_is_told(tmp_path: Path, publish_model) -> None:
    folder = publish_model(tmp_path, flaw="nan")
    (finding,) = examine_models(Settings(models_dir=tmp_path, device="cpu"))
    assert finding.status == "failed"
    assert str(folder) in finding.detail


def test_no_default_model_is_worth_knowing(tmp_path: Path, publish_model) -> None:
    publish_model(tmp_path, "a")
    publish_model(tmp_path, "b")
    *_, finding = examine_models(Settings(models_dir=tmp_path, device="cpu"))
    assert (finding.status, finding.detail) == (
        "warning",
        "none: requests have to name one of a, b",
    )


def test_limits_are_held_to_what_the_settings_need() -> None:
    def refuse(settings: Settings) -> int:
        raise SettingsError("too few")

    settings = Settings(max_connections=100)
    assert examine_connections(settings, lambda settings: 100).status == "ok"
    assert examine_connections(settings, lambda settings: 60).status == "warning"
    assert examine_connections(settings, refuse).status == "failed"
    few = Settings(decoders=2, decoder_memory_bytes=2**30)
    assert examine_memory(few, 4 * 2**30).status == "ok"
    assert examine_memory(few, 2**30).status == "warning"
    assert examine_memory(few, None).status == "warning"


def test_more_threads_or_decoders_than_cpus_are_worth_knowing() -> None:
    cpus = count_usable_cpus()
    for variables, status in (
        ({"decoders": cpus, "intra_op_threads": cpus}, "ok"),
        ({"decoders": cpus + 1, "intra_op_threads": 1}, "warning"),
        ({"decoders": 1, "intra_op_threads": cpus + 1}, "warning"),
    ):
        assert examine_threads(Settings(**variables)).status == status


def test_a_spool_that_is_too_small_is_told_before_it_is_full(tmp_path: Path) -> None:
    (finding,) = examine_spool(Settings(spool_dir=tmp_path, max_upload_bytes=2**60))
    assert finding.status == "failed"
    (finding,) = examine_spool(Settings(spool_dir=tmp_path, max_upload_bytes=1))
    assert finding.status == "ok"


def test_nodes_on_two_providers_are_both_told() -> None:
    nodes = {"CPUExecutionProvider": 2, "CUDAExecutionProvider": 40}
    assert describe_nodes(nodes) == "2 nodes on CPUExecutionProvider, 40 nodes on " + (
        "CUDAExecutionProvider"
    )
