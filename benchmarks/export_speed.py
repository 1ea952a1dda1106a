"""What arranging the ONNX graphs gains: python -m benchmarks.export_speed [--rounds 40].

Gives the stock network and ours the same weights, exports the stock one as tf2onnx traces it and
ours with training.graphs.convert, and lets the two graphs take turns on one thread of ONNX
Runtime's CPU provider. Writes medians to benchmarks/reports/export_speed.md. About two minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx

from benchmarks.report import environment, write_report
from benchmarks.stock_models import STOCK_MODELS, scatter_weights
from clip.manifest import INPUT_NAME, OUTPUT_NAME
from training.graphs.convert import OPSET, to_onnx
from training.networks.models import MODELS

CLASSES, FRAMES, BATCH = 10, 20, 8


def export_stock(model: keras.Model) -> onnx.ModelProto:
    """Trace a Keras model as it is."""
    clips = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name=INPUT_NAME)
    function = tf.function(
        lambda frames: {OUTPUT_NAME: model(tf.cast(frames, tf.float32), training=False)}
    )
    graph: onnx.ModelProto
    graph, _ = tf2onnx.convert.from_function(function, [clips], opset=OPSET)
    return graph


def open_session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Load a graph for one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def take_turns(
    sessions: dict[str, onnxruntime.InferenceSession], batch: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds a clip of each session, and assert that they answer alike."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (batch, FRAMES, 64, 64, 3), dtype=np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    answers = {}
    for _ in range(rounds + 2):
        for name, session in sessions.items():
            start = time.perf_counter()
            (answers[name],) = session.run([OUTPUT_NAME], {INPUT_NAME: clips})
            taken[name].append((time.perf_counter() - start) * 1e3 / batch)
    np.testing.assert_allclose(answers["arranged"], answers["stock"], atol=1e-5)
    return {name: median(times[2:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="turns of each (default: 40)")
    rounds = parser.parse_args().rounds
    lines = [
        "| network | batch | stock export, ms a clip | arranged, ms a clip | times faster |",
        "|---|---|---|---|---|",
    ]
    for name, build_stock in STOCK_MODELS.items():
        stock, ours = build_stock(CLASSES, FRAMES), MODELS[name](CLASSES, FRAMES)
        scatter_weights(stock)
        ours.set_weights(stock.get_weights())
        sessions = {
            "stock": open_session(export_stock(stock)),
            "arranged": open_session(to_onnx(ours)),
        }
        for batch in (1, BATCH):
            ms = take_turns(sessions, batch, max(rounds // batch, 5))
            ratio = ms["stock"] / ms["arranged"]
            lines.append(
                f"| {name} | {batch} | {ms['stock']:.1f} | {ms['arranged']:.1f} | {ratio:.2f} |"
            )
    write_report(
        "export_speed",
        "Inference with the arranged ONNX graphs against stock exports",
        [
            *environment("onnxruntime-gpu", "tf2onnx", "tensorflow", "keras"),
            f"CPU provider, one thread, {FRAMES} frames of 64x64, medians; the graphs took turns.",
        ],
        lines,
    )


if __name__ == "__main__":
    main()
