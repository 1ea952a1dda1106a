"""Whether CUDA is to be had, found out before ONNX Runtime is asked.

Asked for CUDA where it cannot load, ONNX Runtime writes errors to stderr and runs on the CPU. Here
the reason is found first, so that it can be told in one sentence, or kept quiet where nobody wants
a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys

import onnxruntime

CUDA_PROVIDER = "CUDAExecutionProvider"

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


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
