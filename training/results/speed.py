"""What a clip costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
import onnxruntime

from clip.manifest import INPUT_NAME, OUTPUT_NAME

ROUNDS = 30
_WARM_UPS = 2


def ms_per_clip(graphs: Mapping[str, bytes], *, rounds: int = ROUNDS) -> dict[str, float]:
    """Time ONNX graphs on one thread of the processor, one clip at a time.

    Processor time is measured, which on an idle machine is the time that passes; and the graphs
    take turns, so that whatever else the machine does meets all of them alike.

    Args:
        graphs: the .onnx files' bytes by any name.
        rounds: measured turns of each.

    Returns:
        The median milliseconds of each.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    rng = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    sessions, clips = {}, {}
    for name, content in graphs.items():
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        shape = (1, *session.get_inputs()[0].shape[1:])
        sessions[name], clips[name] = session, rng.integers(0, 256, shape, dtype=np.uint8)
    for _ in range(_WARM_UPS + rounds):
        for name, session in sessions.items():
            start = time.process_time()
            session.run([OUTPUT_NAME], {INPUT_NAME: clips[name]})
            taken[name].append((time.process_time() - start) * 1e3)
    return {name: median(times[_WARM_UPS:]) for name, times in taken.items()}
