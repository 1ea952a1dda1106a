"""CUDA: whether it is to be had, how it is asked for, and what its failures mean.

Asked for CUDA where it cannot load, ONNX Runtime writes errors to stderr and runs on the CPU. Here
the reason is found first, so that it can be told in one sentence, or kept quiet where nobody wants
a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
import sys
from enum import StrEnum
from typing import NoReturn

import onnxruntime

CUDA_PROVIDER = "CUDAExecutionProvider"

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

# "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; ..." is how ONNX Runtime
# reports a call that failed. After these NVIDIA's documentation says of the runtime's errors:
# "To continue using CUDA, the process must be terminated and relaunched"; for broken memory (214)
# and links (220), and for "unknown" (999), staying would mean to trust the device's results.
_LOST_CODES = frozenset(
    {"214", "220", "226", "700", "702", "710", "714", "715", "716", "717", "718", "719", "999"}
)
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+):")
# The same in the words of cudaGetErrorString(), for messages that come without the number.
_LOST_WORDS = (
    "an illegal memory access was encountered",
    "uncorrectable ECC error encountered",
    "unspecified launch failure",
)
_MEMORY_WORDS = (
    "Failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    "is smaller than requested bytes",  # the arena at its own limit
    "CUDA failure 2:",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


class CudaFailure(StrEnum):
    """What a failed run means for the ones after it."""

    OUT_OF_MEMORY = "out of memory"
    LOST = "lost"


def classify_failure(message: str) -> CudaFailure | None:
    """What ONNX Runtime's words for a failed run on a GPU mean; None: nothing beyond that run."""
    code = _CUDA_FAILURE.search(message)
    if (code and code[1] in _LOST_CODES) or any(words in message for words in _LOST_WORDS):
        return CudaFailure.LOST
    if any(words in message for words in _MEMORY_WORDS):
        return CudaFailure.OUT_OF_MEMORY
    return None


def provider_options(*, memory_bytes: int | None, graphs: bool) -> dict[str, str]:
    """The CUDA provider's options for one model.

    Args:
        memory_bytes: most that the model's arena may take of the GPU's memory; None is no limit.
        graphs: capture each batch size as a CUDA graph.
    """
    options = {
        # A few batch sizes, all run before the model serves: nothing will grow later, and doubling
        # would take memory that another model or process needs.
        "arena_extend_strategy": "kSameAsRequested",
        # The search is paid for by the warm-up, once for each batch size.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # TF32 keeps 10 bits of a product's factors: served answers would differ from evaluated ones
        # by 1e-3 instead of 1e-6.
        "use_tf32": "0",
        "enable_cuda_graph": "1" if graphs else "0",
    }
    if memory_bytes is not None:
        options["gpu_mem_limit"] = str(memory_bytes)
    return options


def find_gpu_obstacle() -> str | None:
    """Why there is no GPU to use here, in one sentence; None if there is one."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider"
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver ({_DRIVER} cannot be loaded)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver refuses to start (cuInit gives error {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver sees no GPU"
    return None


def load_cuda_libraries() -> str | None:
    """Load CUDA and cuDNN from Python packages or the system; the complaint if one is missing.

    The provider's own library must not be opened here to see whether it loads: it binds to ONNX
    Runtime while it loads, and never again.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # preload_dlls() prints and never raises
        onnxruntime.preload_dlls()
    for line in said.getvalue().splitlines():
        if line.startswith("Failed to load"):
            return line
    return None


def exit_without_cleanup(code: int) -> NoReturn:
    """End a process whose GPU is lost, or in which a model is still being loaded.

    What would come is CUDA's and ONNX Runtime's own clean-up, which may abort or hang then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
