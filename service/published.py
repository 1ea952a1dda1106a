"""What lies in the folder models/<name>/<version>/: found, read and held to its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip.errors import ManifestError
from clip.manifest import ModelManifest
from service.session import ModelLoadError

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"


class BadModelError(ModelLoadError):
    """One published model that must not be served.

    Attributes:
        key: "<name>/<version>", or "<name>", by the folders' names.
        reason: what is wrong, without the folder.
    """

    def __init__(self, folder: Path, key: str, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model's folder and the manifest in it; the model itself has not been read yet."""

    folder: Path
    manifest: ModelManifest

    @property
    def key(self) -> str:
        """<name>/<version>."""
        return f"{self.manifest.name}/{self.manifest.version}"

    def read(self) -> bytes:
        """The bytes of its .onnx file.

        Raises:
            BadModelError: they cannot be read.
        """
        try:
            return (self.folder / MODEL_FILE).read_bytes()
        except OSError as error:
            raise self.refuse(f"{MODEL_FILE}: {error.strerror}") from error

    def refuse(self, reason: str) -> BadModelError:
        """The error that says why this model must not be served."""
        return BadModelError(self.folder, self.key, reason)


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a models folder: models by name, newest version first; and what is bad there."""

    models: Sequence[PublishedModel]
    faults: Sequence[BadModelError]


def find_published(models_dir: Path) -> Found:
    """Every published model in the folder.

    Raises:
        ModelLoadError: the folder cannot be read or holds nothing.
    """
    if not models_dir.is_dir():
        raise ModelLoadError(f"{models_dir}: no such folder (HAR_MODELS_DIR)")
    models: list[PublishedModel] = []
    faults: list[BadModelError] = []
    try:
        name_dirs = _folders(models_dir)
    except OSError as error:
        raise ModelLoadError(f"{models_dir}: {error.strerror} (HAR_MODELS_DIR)") from error
    for name_dir in name_dirs:
        versions: list[PublishedModel] = []
        try:
            folders = _folders(name_dir)
        except OSError as error:
            faults.append(BadModelError(name_dir, name_dir.name, error.strerror or str(error)))
            continue
        for folder in folders:
            try:
                versions.append(_read_manifest(folder))
            except BadModelError as fault:
                faults.append(fault)
        models.extend(sorted(versions, key=lambda published: -published.manifest.version))
    if not models and not faults:
        raise ModelLoadError(
            f"{models_dir}: no model here; wanted <name>/<version>/{MODEL_FILE} (HAR_MODELS_DIR)"
        )
    return Found(models, faults)


def _folders(parent: Path) -> Sequence[Path]:
    # A dot begins the name of what is still being published.
    return sorted(
        path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _read_manifest(folder: Path) -> PublishedModel:
    key = f"{folder.parent.name}/{folder.name}"
    try:
        # A link is followed once: what it is turned to afterwards cannot give the manifest of one
        # model and the file of another.
        real = folder.resolve(strict=True)
        manifest = ModelManifest.from_json((real / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise BadModelError(folder, key, f"{MANIFEST_FILE}: {error.strerror}") from error
    except ManifestError as error:
        raise BadModelError(folder, key, f"{MANIFEST_FILE}: {error}") from error
    if key != f"{manifest.name}/{manifest.version}":
        raise BadModelError(
            folder, key, f"{MANIFEST_FILE} is that of {manifest.name}/{manifest.version}"
        )
    return PublishedModel(real, manifest)
