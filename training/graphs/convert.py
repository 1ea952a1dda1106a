"""From a trained Keras model to an ONNX graph, and what every such graph promises.

    onnx.save(to_onnx(model), "model.onnx")

The graph computes what training.graphs.arrangements makes of the model.
"""

from __future__ import annotations

from typing import Any

import keras
import onnx
import tensorflow as tf
import tf2onnx

from clip.manifest import INPUT_NAME, OUTPUT_NAME
from training.graphs.arrangements import arrange

#: The highest that tf2onnx writes.
OPSET = 18
CONTROL_FLOW = frozenset({"Loop", "If", "Scan"})


class ExportError(RuntimeError):
    """The model cannot be exported as it must be."""


def to_onnx(model: keras.Model) -> onnx.ModelProto:
    """Export a trained model.

    Returns:
        uint8 `frames` (N, T, H, W, 3) -> float32 `probabilities` (N, classes), with any N.

    Raises:
        ExportError: the graph would contain a loop or an operator that is not ONNX, or its names,
            types, shapes or opset are not the ones promised.
    """
    forward = arrange(model)
    clips = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name=INPUT_NAME)
    function = tf.function(lambda frames: {OUTPUT_NAME: forward(frames)}, autograph=False)
    try:
        graph: onnx.ModelProto
        graph, _ = tf2onnx.convert.from_function(function, [clips], opset=OPSET)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ExportError(f"tf2onnx cannot convert {model.name}: {error}") from error
    check_graph(graph, clips.shape[1:], model.output_shape[-1])
    return graph


def check_graph(graph: onnx.ModelProto, clip_shape: tuple[int, ...], num_classes: int) -> None:
    """Hold an ONNX graph to what the service relies on.

    Raises:
        ExportError: naming what is wrong.
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in graph.opset_import}
    if opsets.get("ai.onnx") != OPSET:
        raise ExportError(f"opset {OPSET} is wanted, the graph has {opsets}")
    operators = {node.op_type for node in graph.graph.node}
    if operators & CONTROL_FLOW:
        found = ", ".join(sorted(operators & CONTROL_FLOW))
        raise ExportError(f"the graph contains control flow ({found}): unroll its recurrent layers")
    foreign = sorted(name for name in operators if not onnx.defs.has(name, OPSET, ""))
    if foreign:
        raise ExportError(
            f"not ONNX operators: {', '.join(foreign)} (CudnnRNN: rebuild the layer with "
            "use_cudnn=False)"
        )
    _check_tensors(
        "input", graph.graph.input, INPUT_NAME, onnx.TensorProto.UINT8, (None, *clip_shape)
    )
    _check_tensors(
        "output", graph.graph.output, OUTPUT_NAME, onnx.TensorProto.FLOAT, (None, num_classes)
    )


def _check_tensors(
    role: str,
    tensors: Any,
    name: str,
    element: int,
    shape: tuple[int | None, ...],
) -> None:
    """Compare the one tensor there must be with its promised name, type and shape."""
    if [tensor.name for tensor in tensors] != [name]:
        raise ExportError(f"the only {role} must be {name}, not {[t.name for t in tensors]}")
    kind = tensors[0].type.tensor_type
    found = tuple(axis.dim_value or None for axis in kind.shape.dim)
    if found[:1] != (None,):
        raise ExportError(f"the batch axis of {name} is fixed: {found}")
    if (kind.elem_type, found) != (element, shape):
        raise ExportError(
            f"{name} must be {onnx.TensorProto.DataType.Name(element)} {shape}, not "
            f"{onnx.TensorProto.DataType.Name(kind.elem_type)} {found}"
        )
