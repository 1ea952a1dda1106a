"""Training of the activity-recognition networks and their export to ONNX."""

import os

# Before any module of this package loads ONNX Runtime (service/__init__.py says why).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
