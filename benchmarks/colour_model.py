"""A model that tells clips apart by their mean colour: small, and different for every clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME
from tests.service.colours import make_manifest, write_model


def publish_colour_model(models_dir: Path) -> None:
    """Write the model into `models_dir` as training publishes one."""
    manifest = make_manifest()
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [OUTPUT_NAME]),
    ]
    frames = helper.make_tensor_value_info(
        INPUT_NAME, TensorProto.UINT8, ["N", *manifest.clip_spec.shape]
    )
    probabilities = helper.make_tensor_value_info(
        OUTPUT_NAME, TensorProto.FLOAT, ["N", len(manifest.classes)]
    )
    constants = [
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.float32(0.02), "scale"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "colour", [frames], [probabilities], constants),
        opset_imports=[helper.make_opsetid("", manifest.opset)],
        ir_version=manifest.ir_version,
    )
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    write_model(models_dir, manifest, model.SerializeToString())
