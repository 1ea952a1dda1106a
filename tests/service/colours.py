"""Models that tell a clip's colour, and clips of one colour.

The models average each channel over the whole clip and put a softmax on top. What a test's clip
shows is therefore what the service must answer.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clip import ClipSpec
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelManifest

COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}


def make_manifest(name: str = "colour", version: int = 1, **changes: Any) -> ModelManifest:
    manifest = ModelManifest(
        name=name,
        version=version,
        opset=18,
        ir_version=10,
        classes=tuple(COLOURS),
        clip_spec=ClipSpec(),
        training={
            "dataset": "three colours",
            "split": "none",
            "seed": 0,
            "counts": {},
            "libraries": {},
            "git_commit": "0" * 40,
            "config": {},
        },
        metrics={"test": {"accuracy": 1.0}},
        parity={"max_difference": 0.0},
    )
    return replace(manifest, **changes)


def build_colour_model(manifest: ModelManifest, *, flaw: str | None = None) -> onnx.ModelProto:
    """frames -> mean of each channel -> softmax, as `manifest` announces it.

    Args:
        flaw: what to get wrong. "nan": a clip of pure black gives NaN. "nan_white": one of pure
            white does. "inf", "negative": so are the outputs. "raise": a clip of pure
            white makes the whole run fail. "unnormalised": the outputs do not sum to 1. "short":
            there is only one row of output, however many clips. Others change the graph's
            signature: "input_name", "float_input", "fixed_batch".
    """
    frames_name = "images" if flaw == "input_name" else INPUT_NAME
    nodes = [
        helper.make_node("Cast", [frames_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
    ]
    initializers = [numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")]
    features = "mean"
    if flaw == "nan":
        nodes.append(helper.make_node("Div", ["mean", "mean"], ["one_or_nan"]))
        nodes.append(helper.make_node("Mul", ["mean", "one_or_nan"], ["flawed"]))
        features = "flawed"
    if flaw == "nan_white":
        initializers.append(numpy_helper.from_array(np.array(254.9, np.float32), "nearly_white"))
        nodes.append(helper.make_node("Sub", ["nearly_white", "mean"], ["darkness"]))
        nodes.append(helper.make_node("Sqrt", ["darkness"], ["root"]))
        nodes.append(helper.make_node("Div", ["root", "root"], ["one_or_nan"]))
        nodes.append(helper.make_node("Mul", ["mean", "one_or_nan"], ["flawed"]))
        features = "flawed"
    if flaw == "raise":
        # Gather has one row to choose from; a mean of 255 asks for the next, which is not there.
        initializers.append(numpy_helper.from_array(np.array(255.0, np.float32), "white"))
        initializers.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "table"))
        nodes.append(helper.make_node("ReduceMin", ["mean", "last"], ["least"], keepdims=0))
        initializers.append(numpy_helper.from_array(np.array([1], np.int64), "last"))
        nodes.append(helper.make_node("Div", ["least", "white"], ["whiteness"]))
        nodes.append(helper.make_node("Cast", ["whiteness"], ["row"], to=TensorProto.INT64))
        nodes.append(helper.make_node("Gather", ["table", "row"], ["zero"], axis=0))
        nodes.append(helper.make_node("Add", ["mean", "zero"], ["flawed"]))
        features = "flawed"
    # The same logits whatever the number of classes: class i looks at channel i modulo 3.
    weights = np.zeros((3, len(manifest.classes)), np.float32)
    for column in range(len(manifest.classes)):
        weights[column % 3, column] = 0.02
    initializers.append(numpy_helper.from_array(weights, "weights"))
    nodes.append(helper.make_node("MatMul", [features, "weights"], ["logits"]))
    last = "Identity" if flaw == "unnormalised" else "Softmax"
    answers = "answers" if flaw in {"short", "inf", "negative"} else OUTPUT_NAME
    nodes.append(helper.make_node(last, ["logits"], [answers]))
    if flaw in {"inf", "negative"}:
        factors = np.ones(len(manifest.classes), np.float32)
        factors[0] = np.inf if flaw == "inf" else -1
        initializers.append(numpy_helper.from_array(factors, "factors"))
        nodes.append(helper.make_node("Mul", [answers, "factors"], [OUTPUT_NAME]))
    if flaw == "short":
        for name, value in (("start", 0), ("end", 1)):
            initializers.append(numpy_helper.from_array(np.array([value], np.int64), name))
        nodes.append(helper.make_node("Slice", [answers, "start", "end", "start"], [OUTPUT_NAME]))
    batch = 1 if flaw == "fixed_batch" else "N"
    graph = helper.make_graph(
        nodes,
        "colour",
        [
            helper.make_tensor_value_info(
                frames_name,
                TensorProto.FLOAT if flaw == "float_input" else TensorProto.UINT8,
                [batch, *manifest.clip_spec.shape],
            )
        ],
        [
            helper.make_tensor_value_info(
                OUTPUT_NAME, TensorProto.FLOAT, [batch, len(manifest.classes)]
            )
        ],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", manifest.opset)],
        ir_version=manifest.ir_version,
    )
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    return model


def seal(manifest: ModelManifest, content: bytes) -> ModelManifest:
    return replace(manifest, sha256=hashlib.sha256(content).hexdigest())


def write_model(models_dir: Path, manifest: ModelManifest, content: bytes) -> Path:
    folder = models_dir / manifest.name / str(manifest.version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(seal(manifest, content).to_json())
    return folder


def encode_clip(
    colour: str | tuple[int, int, int] = "red",
    *,
    frames: int = 30,
    size: tuple[int, int] = (64, 48),
    container: str = "mp4",
    codec: str = "mpeg4",
) -> bytes:
    """A clip of one colour, 10 frames a second."""
    rgb = COLOURS[colour] if isinstance(colour, str) else colour
    width, height = size
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = np.full((height, width, 3), rgb, np.uint8)
        for _ in range(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()
