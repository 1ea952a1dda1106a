"""ModelRegistry: what is in the folder is served if it is sound, and named if it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from service.errors import InvalidParameterError, UnknownModelError
from service.inference import ModelLoadError, SessionConfig
from service.registry import ModelRegistry, find_newest


def load(models_dir: Path, default: str | None = None) -> ModelRegistry:
    return ModelRegistry.load(models_dir, SessionConfig(device="cpu"), default_model=default)


def refused(models_dir: Path) -> str:
    with pytest.raises(ModelLoadError) as error:
        load(models_dir)
    return str(error.value)


def edit_manifest(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_newest_version_serves_by_number_not_by_spelling(tmp_path, publish_model) -> None:
    for version in (2, 10, 9):
        publish_model(tmp_path, "colour", version)
    publish_model(tmp_path, "other", 1)
    assert [(model.manifest.name, model.manifest.version) for model in load(tmp_path)] == [
        ("colour", 10),
        ("other", 1),
    ]


def test_what_is_still_being_published_is_not_looked_at(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "colour", 1)
    (tmp_path / "colour" / ".2.tmp").mkdir()
    (tmp_path / ".staging").mkdir()
    (tmp_path / "README.md").write_text("models")
    assert len(find_newest(tmp_path)) == 1


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_f62_a_missing_file_is_named(tmp_path, publish_model, name: str) -> None:
    folder = publish_model(tmp_path)
    (folder / name).unlink()
    assert refused(tmp_path) == f"{folder}: {name}: No such file or directory"


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_f62_a_torn_model_is_refused(tmp_path, publish_model, kept: int) -> None:
    folder = publish_model(tmp_path)
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:kept])
    assert refused(tmp_path).startswith(f"{folder}: sha256")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 99}, "schema"),
        ({"classes": ["only one"]}, "classes"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"surprise": 1}, "surprise"),
        ({"version": 7}, "that of colour/7"),
        ({"name": "other"}, "that of other/1"),
    ],
)
def test_f62_a_manifest_that_does_not_fit_is_refused_with_the_reason(
    tmp_path, publish_model, changes: dict[str, object], reason: str
) -> None:
    folder = publish_model(tmp_path)
    edit_manifest(folder, **changes)
    message = refused(tmp_path)
    assert message.startswith(f"{folder}: ")
    assert reason in message


def test_f62_a_clip_spec_that_this_code_cannot_compute_is_refused(tmp_path, publish_model) -> None:
    folder = publish_model(tmp_path)
    spec = json.loads((folder / "manifest.json").read_text())["clip_spec"]
    edit_manifest(folder, clip_spec=spec | {"sampler": "random-7"})
    assert "random-7" in refused(tmp_path)


def test_a_bad_old_version_is_told_too(tmp_path, publish_model) -> None:
    old = publish_model(tmp_path, "colour", 1)
    publish_model(tmp_path, "colour", 2)
    (old / "manifest.json").write_text("{")
    assert refused(tmp_path).startswith(f"{old}: manifest.json: not valid JSON")


def test_a_folder_name_that_is_no_version_is_told(tmp_path, publish_model) -> None:
    folder = publish_model(tmp_path)
    shutil.move(folder, folder.with_name("v1"))
    assert "manifest.json is that of colour/1" in refused(tmp_path)


def test_a_folder_without_models_is_told_with_its_variable(tmp_path) -> None:
    assert "HAR_MODELS_DIR" in refused(tmp_path)
    assert "HAR_MODELS_DIR" in refused(tmp_path / "absent")


def test_f63_a_model_file_replaced_while_serving_changes_nothing(tmp_path, publish_model) -> None:
    folder = publish_model(tmp_path)
    registry = load(tmp_path)
    shutil.rmtree(folder)
    registry.get("colour").warm_up([1])


def test_the_default_model(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "a", 1)
    assert load(tmp_path).default == "a"
    publish_model(tmp_path, "b", 1)
    assert load(tmp_path).default is None
    assert load(tmp_path, default="b").default == "b"
    publish_model(tmp_path, "lrcn", 1)
    assert load(tmp_path).default == "lrcn"
    with pytest.raises(ModelLoadError, match="HAR_DEFAULT_MODEL=c is not among a, b, lrcn"):
        load(tmp_path, default="c")


def test_names_that_are_not_served_are_unknown(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "a", 1)
    publish_model(tmp_path, "b", 1)
    registry = load(tmp_path)
    assert registry.get("a").manifest.name == "a"
    for name in ("", "c", "../a", "a\0", "A", "x" * 10_000):
        with pytest.raises(UnknownModelError):
            registry.get(name)
    with pytest.raises(InvalidParameterError):
        registry.get(None)
