"""python -m service: what a person sees who starts it."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from service.server import open_listener
from tests.service.process import WAIT_S, started


def failed_start(variables: Mapping[str, object]) -> tuple[int, str]:
    """(exit code, stderr) of a start that must not succeed."""
    with started(variables) as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert not out
    assert "Traceback" not in err
    return process.returncode, err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_f69_it_greets_serves_and_stops_with_exit_code_0(
    models_dir: Path, tmp_path: Path, red_clip: bytes, stop: signal.Signals
) -> None:
    variables = {
        "HAR_PORT": 0,
        "HAR_MODELS_DIR": models_dir,
        "HAR_SPOOL_DIR": tmp_path,
        "HAR_LOG_LEVEL": "warning",
    }
    with started(variables) as process:
        assert process.stdout is not None
        greeting = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", greeting)
        assert address, greeting
        assert "/docs" in greeting
        assert f"curl -F file=@clip.mp4 {address[0]}/predict" in greeting
        answer = httpx.post(f"{address[0]}/predict", files={"file": red_clip}, timeout=WAIT_S)
        assert answer.json()["label"] == "red"
        process.send_signal(stop)
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_a_bad_setting_ends_the_start_with_its_variable() -> None:
    code, err = failed_start({"HAR_PORT": "http"})
    assert code == 2
    assert err.startswith("har-service cannot start: HAR_PORT=http: ")


def test_a_misspelled_setting_is_told_at_the_start(models_dir: Path, tmp_path: Path) -> None:
    variables = {
        "HAR_PORT": 0,
        "HAR_MODELS_DIR": models_dir,
        "HAR_SPOOL_DIR": tmp_path,
        "HAR_LOG_LEVEL": "warning",
        "HAR_MAX_UPLOAD_BYTE": 1,
    }
    with started(variables) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    (line,) = err.splitlines()
    assert line.endswith("no such setting: HAR_MAX_UPLOAD_BYTE (HAR_MAX_UPLOAD_BYTES?)")


def test_f24_a_start_for_all_the_world_without_keys_is_refused() -> None:
    code, err = failed_start({"HAR_PORT": 0, "HAR_HOST": "0.0.0.0"})
    assert code == 2
    assert err.startswith("har-service cannot start: HAR_HOST=0.0.0.0 ")
    assert "HAR_API_KEYS" in err


def test_a_taken_port_ends_the_start_with_its_variable() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        code, err = failed_start({"HAR_PORT": port})
    assert code == 2
    assert f"HAR_PORT={port}: Address already in use" in err


def test_f62_a_bad_model_ends_the_start_with_its_folder_and_the_reason(
    tmp_path: Path, publish_model
) -> None:
    folder = publish_model(tmp_path)
    (folder / "model.onnx").write_bytes(b"")
    code, err = failed_start({"HAR_PORT": 0, "HAR_MODELS_DIR": tmp_path})
    assert code == 1
    assert re.fullmatch(f"har-service cannot start: {folder}: sha256 .*\n", err)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_f67_cuda_asked_for_and_not_had_ends_the_start_with_the_reason(models_dir: Path) -> None:
    code, err = failed_start({"HAR_PORT": 0, "HAR_MODELS_DIR": models_dir, "HAR_DEVICE": "cuda"})
    assert code == 1
    assert "HAR_DEVICE=cuda, but CUDA is not to be had: " in err
    assert len(err.splitlines()) == 1


def test_f68_a_gpu_that_is_lost_ends_the_process_with_its_own_exit_code_and_the_reason(
    models_dir: Path, tmp_path: Path, red_clip: bytes
) -> None:
    variables = {
        "HAR_PORT": 0,
        "HAR_MODELS_DIR": models_dir,
        "HAR_SPOOL_DIR": tmp_path,
        "HAR_DEVICE": "cuda",
        "HAR_LOG_LEVEL": "error",
    }
    with started(variables, module="tests.service.lost_gpu_service") as process:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert address
        answer = httpx.post(f"{address[0]}/predict", files={"file": red_clip}, timeout=WAIT_S)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (3, "")
    last = err.splitlines()[-1]
    assert last.startswith("har-service ends, to be started anew: CUDA has failed: ")
    assert "illegal memory access" in last
