"""ModelManifest: the record that travels with an .onnx; training writes it, the service reads it.

It lies beside the model as `manifest.json` and, without the `sha256` that a file cannot hold of
itself, in the model's own metadata under `METADATA_KEY`, so that a model file found alone still
tells what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clip.errors import ManifestError, SpecError
from clip.spec import ClipSpec

#: The layout of the record; a reader refuses what it does not know.
SCHEMA = 1
METADATA_KEY = "har_manifest"
INPUT_NAME = "frames"
OUTPUT_NAME = "probabilities"

TRAINING_KEYS = frozenset(
    {"dataset", "split", "seed", "counts", "libraries", "git_commit", "config"}
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """What a model is, what it wants and how good it was measured to be.

    Attributes:
        name: folder name under models/: lower-case letters, digits and hyphens.
        version: folder name under models/<name>/: 1 or more.
        sha256: of the .onnx file, hexadecimal; empty in the copy inside the file.
        opset, ir_version: of the ONNX graph.
        classes: labels in the order of the output's columns.
        clip_spec: how the input is computed from a video; fixes the input's shape
            (N, frames, height, width, 3), uint8.
        training: how the weights came about; has at least `TRAINING_KEYS`.
        metrics: for "validation" and "test" the figures measured on that part of the split; in a
            refit, which was trained on the validation clips too, for "selected_by" those of the
            run that selected its settings instead; for "speed" what a clip costs; for "comparison",
            where there is one, the test figures of the same network trained under another split.
        parity: the measured difference between the Keras model and this graph.

    Raises:
        ManifestError: a field is missing, malformed or contradicts another.
    """

    name: str
    version: int
    opset: int
    ir_version: int
    classes: tuple[str, ...]
    clip_spec: ClipSpec
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    parity: Mapping[str, Any]
    sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise ManifestError("name must be lower-case letters, digits and hyphens")
        for field in ("version", "opset", "ir_version"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise ManifestError(f"{field} must be a whole number of at least 1")
        if self.sha256 and not _SHA256.match(self.sha256):
            raise ManifestError("sha256 must be 64 hexadecimal digits")
        if not all(isinstance(label, str) and label for label in self.classes):
            raise ManifestError("every class must be a non-empty string")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ManifestError("classes must be at least two different labels")
        missing = TRAINING_KEYS - set(self.training)
        if missing:
            raise ManifestError(f"training lacks {', '.join(sorted(missing))}")

    @property
    def input_shape(self) -> tuple[None, int, int, int, int]:
        """The shape of the graph's input, uint8; the first axis is the batch."""
        return None, *self.clip_spec.shape

    @property
    def output_shape(self) -> tuple[None, int]:
        """The shape of the graph's output, float32; the first axis is the batch."""
        return None, len(self.classes)

    def to_json(self) -> str:
        """The text of manifest.json; the tensors are spelled out for readers of other languages."""
        record = asdict(self)
        record["schema"] = SCHEMA
        record["classes"] = list(self.classes)
        record["clip_spec"] = self.clip_spec.to_dict()
        record["input"] = {
            "name": INPUT_NAME,
            "dtype": "uint8",
            "shape": ["N", *self.clip_spec.shape],
        }
        record["output"] = {
            "name": OUTPUT_NAME,
            "dtype": "float32",
            "shape": ["N", len(self.classes)],
        }
        return json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelManifest:
        """Parse and check the text of a manifest.json.

        Raises:
            ManifestError: it is no JSON, of another schema, incomplete or contradictory.
        """
        try:
            record = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise ManifestError("not a JSON object")
        if record.pop("schema", None) != SCHEMA:
            raise ManifestError(f"schema must be {SCHEMA}")
        tensors = record.pop("input", None), record.pop("output", None)
        names = set(cls.__dataclass_fields__)
        if set(record) != names:
            wrong = ", ".join(sorted(set(record) ^ names))
            raise ManifestError(f"fields missing or unknown: {wrong}")
        for field in ("training", "metrics", "parity"):
            if not isinstance(record[field], dict):
                raise ManifestError(f"{field} must be an object")
        if not isinstance(record["classes"], list) or not isinstance(record["sha256"], str):
            raise ManifestError("classes must be a list and sha256 a string")
        try:
            record["clip_spec"] = ClipSpec.from_dict(record["clip_spec"])
        except SpecError as error:
            raise ManifestError(str(error)) from error
        record["classes"] = tuple(record["classes"])
        manifest = cls(**record)
        written = json.loads(manifest.to_json())
        if tensors != (written["input"], written["output"]):
            raise ManifestError("input and output contradict clip_spec and classes")
        return manifest


def _refuse_constant(name: str) -> None:
    """NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is no JSON value")
