"""The machine and the libraries with which something was trained or measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tensorflow as tf

_LIBRARIES = ("tensorflow", "keras", "tf2onnx", "onnx", "numpy", "av", "opencv-python-headless")


def describe_libraries() -> dict[str, str]:
    """The versions of Python and of what computes with it."""
    return {
        "python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
    }


def describe_machine() -> dict[str, Any]:
    """The machine as JSON values: `processor`, usable `cores`, and the names of its `gpus`."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    details = [
        tf.config.experimental.get_device_details(device)
        for device in tf.config.list_physical_devices("GPU")
    ]
    return {
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "gpus": [detail.get("device_name", "GPU") for detail in details],
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
