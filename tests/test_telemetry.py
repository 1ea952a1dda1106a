"""ONNX Runtime must not report to its makers. It reads its switch when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOOK = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("switch:", os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Watch())
import {module}
"""


@pytest.mark.parametrize(
    "module", ["service.__main__", "service.classify", "service.doctor", "training.results.speed"]
)
def test_telemetry_is_off_before_onnx_runtime_is_loaded(module: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"
    }
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(module=module)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[:1] == ["switch: 1"]
