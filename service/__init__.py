"""Online service for human activity recognition: a video file in, class probabilities out.

    python -m service            # serves on HAR_HOST:HAR_PORT, 127.0.0.1:8000 unless told otherwise
    python -m service.classify clip.mp4      # the same pipeline without a server

A request passes through the modules in this order: context, routes, admission, upload, pipeline,
decoding, batching, inference. `service.app.create_app` puts them together.
"""

import os
import sys

if sys.platform == "win32":
    raise ImportError("the service needs Linux or macOS: on Windows run it in WSL or Docker")

# Before any module of this package loads ONNX Runtime, whose builds else report sessions and models
# to their makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
