"""What is in a folder of published models: <name>/<version>/ with model.onnx and manifest.json."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from clip import ManifestError, ModelManifest
from training.errors import DataError
from training.run import RunDirectory


@dataclass(frozen=True, slots=True)
class Published:
    """One version of a published model."""

    folder: Path
    manifest: ModelManifest

    @classmethod
    def open(cls, folder: Path) -> Published:
        """Read a version's manifest.

        Raises:
            DataError: there is none, or none that this code knows.
        """
        try:
            return cls(folder, ModelManifest.from_json((folder / "manifest.json").read_bytes()))
        except (ManifestError, OSError) as error:
            raise DataError(f"{folder} is not a published model: {error}") from error

    def read_graph(self) -> bytes:
        """The bytes of model.onnx.

        Raises:
            DataError: they are not those of the manifest.
        """
        content = (self.folder / "model.onnx").read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest.sha256:
            raise DataError(f"{self.folder / 'model.onnx'} is not the file of its manifest.json")
        return content


def next_version(models_dir: Path, name: str) -> int:
    """The number of a model's next version: one more than the highest there is."""
    return max(_versions(models_dir / name), default=0) + 1


def newest_of_others(models_dir: Path, name: str) -> list[Published]:
    """The newest version of each published model but one, by name.

    Raises:
        DataError: one of them cannot be read.
        OSError: there is no such folder.
    """
    return [
        Published.open(parent / str(max(versions)))
        for parent in sorted(models_dir.iterdir())
        if parent.name != name and (versions := _versions(parent))
    ]


def find_published(run: RunDirectory, models_dir: Path) -> Path | None:
    """The folder of the newest version that was made of this very training, if there is one."""
    config, metrics = run.read_json("config.json"), run.read_json("metrics.json")
    wanted = (config, *(metrics[k] for k in ("best_epoch", "epochs_run", "training_seconds")))
    parent = models_dir / str(config["model"])
    for version in sorted(_versions(parent), reverse=True):
        try:
            training = Published.open(parent / str(version)).manifest.training
        except DataError:  # somebody else's business
            continue
        names = ("config", "best_epoch", "epochs_run", "seconds")
        if tuple(training.get(name) for name in names) == wanted:
            return parent / str(version)
    return None


def _versions(parent: Path) -> list[int]:
    if not parent.is_dir():
        return []
    return [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
