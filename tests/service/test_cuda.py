"""CUDA is looked for before ONNX Runtime is asked, and what is missing is named."""

from __future__ import annotations

import ctypes
from typing import Any

import onnxruntime
import pytest

from service.cuda import (
    CUDA_PROVIDER,
    CudaFailure,
    classify_failure,
    find_gpu_obstacle,
    load_cuda_libraries,
    provider_options,
)
from tests.service.fake_gpu import ILLEGAL_ACCESS, OUT_OF_MEMORY


class FakeDriver:
    """Stands for libcuda, which is where the GPU is."""

    def __init__(self, *, status: int = 0, gpus: int = 1) -> None:
        self._status = status
        self._gpus = gpus

    def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's own name
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self._gpus
        return 0


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER])


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (FakeDriver(), None),
        (FakeDriver(gpus=0), "sees no GPU"),
        (FakeDriver(status=803), "error 803"),
    ],
)
def test_f67_the_driver_is_asked_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, reason: str | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    obstacle = find_gpu_obstacle()
    assert obstacle is None if reason is None else reason in str(obstacle)


@pytest.mark.usefixtures("cuda_build")
def test_f67_a_machine_without_a_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert "no NVIDIA driver" in str(find_gpu_obstacle())


def test_a_build_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "no CUDA provider" in str(find_gpu_obstacle())


def test_a_missing_library_is_named_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def preload() -> None:
        print("Failed to load libcublasLt.so.13: no such file")
        print("Please follow the instructions")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    assert "libcublasLt.so.13" in str(load_cuda_libraries())
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    assert load_cuda_libraries() is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        (ILLEGAL_ACCESS, CudaFailure.LOST),
        ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=0", CudaFailure.LOST),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", CudaFailure.LOST),
        ("CUDA failure 700: something in another language ; GPU=0", CudaFailure.LOST),
        ("cudaStreamSynchronize: an illegal memory access was encountered", CudaFailure.LOST),
        (OUT_OF_MEMORY, CudaFailure.OUT_OF_MEMORY),
        ("CUDA failure 2: out of memory ; GPU=0", CudaFailure.OUT_OF_MEMORY),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", CudaFailure.OUT_OF_MEMORY),
        (
            "Available memory of 1024 is smaller than requested bytes of 4096",
            CudaFailure.OUT_OF_MEMORY,
        ),
        ("CUDA failure 9: invalid configuration argument ; GPU=0", None),
        ("CUDA failure 7001: no such code", None),
        ("indices element out of data bounds, idx=1 must be within [-1,0]", None),
        ("", None),
    ],
)
def test_f68_cudas_words_are_understood(message: str, failure: CudaFailure | None) -> None:
    assert classify_failure(message) is failure


def test_a_memory_limit_is_asked_for_only_where_there_is_one() -> None:
    assert "gpu_mem_limit" not in provider_options(memory_bytes=None, graphs=False)
    assert provider_options(memory_bytes=64, graphs=False)["gpu_mem_limit"] == "64"
