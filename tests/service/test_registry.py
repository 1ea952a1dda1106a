"""ModelRegistry: what is in the folder is served if it is sound, and named if it is not."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from clip import ClipSpec
from service.errors import InvalidParameterError, UnknownModelError, UnknownVersionError
from service.inference import OnnxModel
from service.published import find_published
from service.registry import PREFERRED_MODELS, Changes, ModelRegistry, RegistryConfig
from service.session import ModelLoadError, SessionConfig
from tests.service.fake_gpu import FakeGpu


def configure(
    models_dir: Path, default: str | None = None, max_versions: int | None = None
) -> RegistryConfig:
    return RegistryConfig(models_dir, SessionConfig(device="cpu"), default, max_versions)


def load(models_dir: Path, *options: object) -> ModelRegistry:
    return ModelRegistry.load(configure(models_dir, *options))


def list_keys(registry: ModelRegistry) -> list[str]:
    return [f"{model.manifest.name}/{model.manifest.version}" for model in registry]


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
    registry = load(tmp_path)
    assert registry.get("colour").manifest.version == 10
    assert [model.manifest.version for model in registry.newest()] == [10, 1]


def test_what_is_still_being_published_is_not_looked_at(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "colour", 1)
    (tmp_path / "colour" / ".2.tmp").mkdir()
    (tmp_path / ".staging").mkdir()
    (tmp_path / "README.md").write_text("models")
    assert len(find_published(tmp_path).models) == 1


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


def test_the_default_model(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "a", 1)
    assert load(tmp_path).default == "a"
    publish_model(tmp_path, "b", 1)
    assert load(tmp_path).default is None
    assert load(tmp_path, "b").default == "b"
    for name in reversed(PREFERRED_MODELS):
        publish_model(tmp_path, name, 1)
        assert load(tmp_path).default == name
    assert PREFERRED_MODELS[:2] == ("lrcn-efficientnet", "lrcn")
    with pytest.raises(ModelLoadError, match="HAR_DEFAULT_MODEL=c is not among a, b, lrcn"):
        load(tmp_path, "c")


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


def test_every_published_version_can_be_asked_for(tmp_path, publish_model) -> None:
    for version in (1, 2, 10):
        publish_model(tmp_path, "a", version)
    registry = load(tmp_path)
    assert registry.versions("a") == [10, 2, 1]
    for version in (1, 2, 10):
        assert registry.get("a", version).manifest.version == version
        assert registry.get(None, version).manifest.version == version
    for version in (3, 0, -1):
        with pytest.raises(UnknownVersionError):
            registry.get("a", version)
    with pytest.raises(UnknownModelError):
        registry.get("b", 1)


def test_no_more_versions_are_loaded_than_allowed(tmp_path, publish_model) -> None:
    for version in (1, 2, 3):
        publish_model(tmp_path, "a", version)
    publish_model(tmp_path, "b", 1)
    registry = load(tmp_path, None, 2)
    assert list_keys(registry) == ["a/3", "a/2", "b/1"]
    publish_model(tmp_path, "a", 4)
    after, changes = reload(registry, tmp_path, None, 2)
    assert list_keys(after) == ["a/4", "a/3", "b/1"]
    assert changes == Changes(loaded=["a/4"], kept=["a/3", "b/1"], removed=["a/2"])


def test_only_the_newest_version_is_warmed_for_large_batches_on_a_cpu(
    tmp_path, publish_model, monkeypatch
) -> None:
    warmed: dict[int, list[int]] = {}
    warm_up = OnnxModel.warm_up

    def note(model: OnnxModel, sizes: Sequence[int]) -> None:
        warmed[model.manifest.version] = [*sizes]
        warm_up(model, sizes)

    monkeypatch.setattr(OnnxModel, "warm_up", note)
    for version in (1, 2):
        publish_model(tmp_path, "a", version)
    config = RegistryConfig(tmp_path, SessionConfig(device="cpu", max_batch_size=4))
    registry = ModelRegistry.load(config)
    everything = registry.get("a").warm_up_sizes
    assert len(everything) > 1
    assert warmed == {2: [*everything], 1: [1]}
    warmed.clear()
    for version in (3, 4):
        publish_model(tmp_path, "a", version)
    registry.reload(config)
    assert warmed == {4: [*everything], 3: [1]}


def test_every_version_is_warmed_for_all_batches_on_a_gpu(tmp_path, publish_model) -> None:
    for version in (1, 2):
        publish_model(tmp_path, "a", version)
    gpu = FakeGpu()
    config = RegistryConfig(tmp_path, SessionConfig(device="cuda", max_batch_size=4))
    registry = ModelRegistry.load(config, gpu)
    assert [clips for clips, _, _ in gpu.runs] == 2 * [*registry.get("a").warm_up_sizes]
    assert len(registry.get("a").warm_up_sizes) > 1


def test_models_of_different_specs_serve_side_by_side(tmp_path, publish_model) -> None:
    large = ClipSpec(frames=20, height=128, width=128)
    publish_model(tmp_path, "lrcn", 1)
    publish_model(tmp_path, "lrcn-efficientnet", 1, clip_spec=large)
    registry = load(tmp_path)
    assert registry.get(None).manifest.clip_spec == large
    assert registry.get("lrcn").manifest.clip_spec == ClipSpec()


# --- reload ---------------------------------------------------------------------------------------


def reload(
    registry: ModelRegistry, models_dir: Path, *options: object
) -> tuple[ModelRegistry, Changes]:
    return registry.reload(configure(models_dir, *options))


def test_a_reload_loads_what_is_new_keeps_what_is_not_and_drops_what_is_gone(
    tmp_path, publish_model
) -> None:
    publish_model(tmp_path, "a", 1)
    gone = publish_model(tmp_path, "b", 1)
    before = load(tmp_path)
    publish_model(tmp_path, "a", 2)
    publish_model(tmp_path, "c", 1)
    shutil.rmtree(gone.parent)
    after, changes = reload(before, tmp_path)
    assert list_keys(after) == ["a/2", "a/1", "c/1"]
    assert after.get("a", 1) is before.get("a", 1), "an unchanged model is not loaded again"
    assert changes == Changes(loaded=["a/2", "c/1"], kept=["a/1"], removed=["b/1"])
    assert list_keys(before) == ["a/1", "b/1"], "whoever still has the old one can go on"


def test_a_version_that_was_published_anew_is_loaded_anew(tmp_path, publish_model) -> None:
    folder = publish_model(tmp_path)
    before = load(tmp_path)
    shutil.rmtree(folder)
    publish_model(tmp_path, classes=("one", "two"))
    after, changes = reload(before, tmp_path)
    assert after.get("colour").manifest.classes == ("one", "two")
    assert changes == Changes(loaded=["colour/1"])


def test_f62_a_bad_new_version_is_told_and_the_last_good_one_serves(
    tmp_path, publish_model, caplog
) -> None:
    publish_model(tmp_path, "colour", 1)
    before = load(tmp_path, None, 1)
    folder = publish_model(tmp_path, "colour", 2, flaw="nan")
    after, changes = reload(before, tmp_path, None, 1)
    assert after.get("colour") is before.get("colour")
    assert list(changes.failed) == ["colour/2"]
    assert "not finite" in changes.failed["colour/2"]
    assert str(tmp_path) not in changes.failed["colour/2"], "a client may see this"
    assert str(folder) in caplog.text


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("damage", ["torn", "deleted", "overwritten"])
def test_f63_files_that_are_damaged_while_serving_change_nothing_and_are_told_by_a_reload(
    tmp_path, publish_model, name: str, damage: str
) -> None:
    file = publish_model(tmp_path) / name
    before = load(tmp_path)
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:100] if damage == "torn" else b"something else")
    before.get("colour").warm_up()
    after, changes = reload(before, tmp_path)
    assert after.get("colour") is before.get("colour")
    assert changes.kept == ["colour/1"]
    assert name in changes.failed["colour/1"]


def test_f63_a_model_whose_folder_cannot_be_read_goes_on_serving(
    tmp_path, publish_model, monkeypatch
) -> None:
    publish_model(tmp_path, "a", 1)
    publish_model(tmp_path, "b", 1)
    before = load(tmp_path)
    list_folder = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder == tmp_path / "b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    after, changes = reload(before, tmp_path)
    assert after.get("b") is before.get("b")
    assert changes == Changes(kept=["a/1", "b/1"], failed={"b": "Permission denied"})


def test_f63_a_folder_that_is_deleted_while_serving_is_dropped_by_a_reload_only(
    tmp_path, publish_model
) -> None:
    publish_model(tmp_path, "colour", 1)
    folder = publish_model(tmp_path, "colour", 2)
    before = load(tmp_path)
    shutil.rmtree(folder)
    before.get("colour", 2).warm_up()
    after, changes = reload(before, tmp_path)
    assert list_keys(after) == changes.kept == ["colour/1"]
    assert changes.removed == ["colour/2"]


def test_f63_a_link_that_is_turned_to_another_model_is_followed_by_a_reload(
    tmp_path, publish_model
) -> None:
    models_dir = tmp_path / "models"
    (models_dir / "colour").mkdir(parents=True)
    link = models_dir / "colour" / "1"
    link.symlink_to(publish_model(tmp_path / "first"))
    before = load(models_dir)
    other = tmp_path / "link"
    other.symlink_to(publish_model(tmp_path / "second", classes=("one", "two")))
    other.replace(link)
    before.get("colour").warm_up()
    after, changes = reload(before, models_dir)
    assert after.get("colour").manifest.classes == ("one", "two")
    assert changes.loaded == ["colour/1"]


def test_f63_a_link_that_is_turned_in_mid_read_gives_no_mixture(tmp_path, publish_model) -> None:
    models_dir = tmp_path / "models"
    (models_dir / "colour").mkdir(parents=True)
    link = models_dir / "colour" / "1"
    first = publish_model(tmp_path / "first")
    link.symlink_to(first)
    (published,) = find_published(models_dir).models
    link.unlink()
    link.symlink_to(publish_model(tmp_path / "second", classes=("one", "two")))
    assert published.read() == (first / "model.onnx").read_bytes()


def test_a_reload_of_a_folder_with_nothing_to_serve_is_refused(tmp_path, publish_model) -> None:
    folder = publish_model(tmp_path / "models")
    registry = load(tmp_path / "models")
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(ModelLoadError, match="no model here"):
        reload(registry, tmp_path / "models")
    (publish_model(tmp_path / "models", "other") / "manifest.json").unlink()
    with pytest.raises(ModelLoadError, match="no sound model here"):
        reload(registry, tmp_path / "models")
    shutil.rmtree(tmp_path / "models")
    with pytest.raises(ModelLoadError, match="no such folder"):
        reload(registry, tmp_path / "models")
    registry.get("colour").warm_up()


def test_a_reload_that_would_lose_the_default_model_is_refused(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "a")
    folder = publish_model(tmp_path, "b")
    registry = load(tmp_path, "b")
    shutil.rmtree(folder)
    with pytest.raises(ModelLoadError, match="HAR_DEFAULT_MODEL=b is not among a"):
        reload(registry, tmp_path, "b")


def test_a_reload_that_is_refused_for_its_default_model_leaves_no_new_model_behind(
    tmp_path, publish_model
) -> None:
    folder = publish_model(tmp_path, "b")
    registry = load(tmp_path, "b")
    shutil.rmtree(folder)
    publish_model(tmp_path, "in-vain")
    with pytest.raises(ModelLoadError, match="HAR_DEFAULT_MODEL=b is not among in-vain"):
        reload(registry, tmp_path, "b")
    assert not [one for one in threading.enumerate() if one.name.startswith("infer-in-vain")]


def test_the_preferred_default_comes_with_a_reload(tmp_path, publish_model) -> None:
    publish_model(tmp_path, "lrcn")
    registry = load(tmp_path)
    publish_model(tmp_path, "lrcn-efficientnet")
    after, _ = reload(registry, tmp_path)
    assert (registry.default, after.default) == ("lrcn", "lrcn-efficientnet")
