import json

import pytest

from clip import ClipSpec, ManifestError, ModelManifest
from clip.manifest import TRAINING_KEYS


def make_manifest(**changes):
    fields = {
        "name": "lrcn",
        "version": 3,
        "opset": 18,
        "ir_version": 10,
        "classes": ("Archery", "YoYo"),
        "clip_spec": ClipSpec(),
        "training": dict.fromkeys(TRAINING_KEYS, "known"),
        "metrics": {"test": {"accuracy": 0.5}},
        "parity": {"max_abs_difference": 1e-7},
        "sha256": "0" * 64,
    }
    return ModelManifest(**{**fields, **changes})


def test_a_manifest_comes_back_from_its_json():
    manifest = make_manifest()
    assert ModelManifest.from_json(manifest.to_json()) == manifest


def test_the_json_spells_out_the_tensors():
    record = json.loads(make_manifest().to_json())
    assert record["input"] == {"name": "frames", "dtype": "uint8", "shape": ["N", 20, 64, 64, 3]}
    assert record["output"] == {"name": "probabilities", "dtype": "float32", "shape": ["N", 2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../lrcn"},
        {"name": "LRCN"},
        {"name": "lrcn\n"},
        {"version": 0},
        {"version": "1"},
        {"opset": True},
        {"classes": ("Archery",)},
        {"classes": ("Archery", "Archery")},
        {"classes": ("Archery", "")},
        {"sha256": "abc"},
        {"training": {}},
    ],
)
def test_a_contradictory_manifest_cannot_be_made(changes):
    with pytest.raises(ManifestError):
        make_manifest(**changes)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"classes": ["Archery", "YoYo", "Punch"]},
        {"classes": "ab"},
        {"classes": [["Archery"], ["YoYo"]]},
        {"classes": [1, 2]},
        {"metrics": {"test": {"accuracy": float("nan")}}},
        {"parity": {"max_abs_difference": float("inf")}},
        {"clip_spec": {"frames": 20}},
        {"clip_spec": {**ClipSpec().to_dict(), "frames": 10}},
        {"metrics": []},
        {"extra": 1},
        {"input": None},
    ],
)
def test_a_record_that_was_tampered_with_is_refused(change):
    record = json.loads(make_manifest().to_json())
    with pytest.raises(ManifestError):
        ModelManifest.from_json(json.dumps({**record, **change}))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", b"\xff\xfe\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ManifestError):
        ModelManifest.from_json(text)


def test_a_figure_that_is_not_finite_cannot_be_written():
    with pytest.raises(ValueError, match="JSON"):
        make_manifest(metrics={"test": {"accuracy": float("nan")}}).to_json()
