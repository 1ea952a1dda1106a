"""A model that tells clips apart by their mean colour: small, and different for every clip."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from clip import ClipSpec, ModelManifest
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME

_CLASSES = ("red", "green", "blue")


def publish_colour_model(models_dir: Path) -> None:
    """Write the model into `models_dir` as training publishes one."""
    manifest = ModelManifest(
        name="colour",
        version=1,
        opset=18,
        ir_version=10,
        classes=_CLASSES,
        clip_spec=ClipSpec(),
        training={
            "dataset": "none",
            "split": "none",
            "seed": 0,
            "counts": {},
            "libraries": {},
            "git_commit": "0" * 40,
            "config": {},
        },
        metrics={},
        parity={"max_difference": 0.0},
    )
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
        OUTPUT_NAME, TensorProto.FLOAT, ["N", len(_CLASSES)]
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
    content = model.SerializeToString()
    folder = models_dir / manifest.name / str(manifest.version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    sealed = replace(manifest, sha256=hashlib.sha256(content).hexdigest())
    (folder / "manifest.json").write_text(sealed.to_json())
