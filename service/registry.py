"""ModelRegistry: the folder models/<name>/<version>/ as verified models that are ready to run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clip.errors import ManifestError
from clip.manifest import ModelManifest
from service.errors import InvalidParameterError, UnknownModelError
from service.inference import ModelLoadError, OnnxModel, SessionConfig

logger: Final = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"

#: Serves requests that name no model, where there are several and HAR_DEFAULT_MODEL is not set.
_PREFERRED_MODEL = "lrcn"


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model's folder and the manifest in it; nothing has been loaded yet."""

    folder: Path
    manifest: ModelManifest


class ModelRegistry:
    """The models that are served: of each name the newest version."""

    def __init__(self, models: Mapping[str, OnnxModel], *, default: str | None) -> None:
        self._models = dict(sorted(models.items()))
        self.default = default

    @classmethod
    def load(
        cls,
        models_dir: Path,
        config: SessionConfig,
        *,
        default_model: str | None = None,
        warm_up_batch_sizes: Sequence[int] = (1,),
    ) -> ModelRegistry:
        """Load, verify and warm every model that serves. Blocks for seconds: call it in a thread.

        Args:
            models_dir: the folder that holds a folder for each name.
            config: where and how the models run.
            default_model: the model of requests that name none.
            warm_up_batch_sizes: batch sizes that are run once before the model serves.

        Raises:
            ModelLoadError: a model is bad, there is none, or the default is not among them.
        """
        models: dict[str, OnnxModel] = {}
        for published in find_newest(models_dir):
            model = _load_model(published, config, warm_up_batch_sizes)
            manifest = model.manifest
            logger.info("loaded %s %d on %s", manifest.name, manifest.version, model.provider)
            models[manifest.name] = model
        if default_model is not None and default_model not in models:
            raise ModelLoadError(
                f"HAR_DEFAULT_MODEL={default_model} is not among {', '.join(sorted(models))}"
            )
        return cls(models, default=default_model or _choose_default(models))

    def __iter__(self) -> Iterator[OnnxModel]:
        return iter(self._models.values())

    def get(self, name: str | None) -> OnnxModel:
        """The model of that name; the default for None.

        Raises:
            UnknownModelError: there is none of that name.
            InvalidParameterError: no name was given and there is no default.
        """
        if name is None:
            if self.default is None:
                raise InvalidParameterError("Say which model: GET /models lists them.")
            name = self.default
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError("There is no such model: GET /models lists them.")
        return model


def find_newest(models_dir: Path) -> Sequence[PublishedModel]:
    """The newest version of every model in the folder, by name.

    Raises:
        ModelLoadError: the folder holds no model, or a manifest in it is bad, an old version's
        included.
    """
    if not models_dir.is_dir():
        raise ModelLoadError(f"{models_dir}: no such folder (HAR_MODELS_DIR)")
    newest = [
        max(versions, key=lambda published: published.manifest.version)
        for name_dir in _folders(models_dir)
        if (versions := [_read_manifest(folder) for folder in _folders(name_dir)])
    ]
    if not newest:
        raise ModelLoadError(
            f"{models_dir}: no model here; wanted <name>/<version>/{MODEL_FILE} (HAR_MODELS_DIR)"
        )
    return newest


def _folders(parent: Path) -> Sequence[Path]:
    # A dot begins the name of what is still being published.
    return sorted(
        path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _read_manifest(folder: Path) -> PublishedModel:
    try:
        manifest = ModelManifest.from_json((folder / MANIFEST_FILE).read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{folder}: {MANIFEST_FILE}: {error.strerror}") from error
    except ManifestError as error:
        raise ModelLoadError(f"{folder}: {MANIFEST_FILE}: {error}") from error
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise ModelLoadError(
            f"{folder}: {MANIFEST_FILE} is that of {manifest.name}/{manifest.version}"
        )
    return PublishedModel(folder, manifest)


def _load_model(
    published: PublishedModel, config: SessionConfig, warm_up_batch_sizes: Sequence[int]
) -> OnnxModel:
    try:
        content = (published.folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise ModelLoadError(f"{published.folder}: {MODEL_FILE}: {error.strerror}") from error
    try:
        model = OnnxModel.load(content, published.manifest, config)
        model.warm_up(warm_up_batch_sizes)
    except ModelLoadError as error:
        raise ModelLoadError(f"{published.folder}: {error}") from error
    return model


def _choose_default(models: Mapping[str, OnnxModel]) -> str | None:
    if len(models) == 1:
        return next(iter(models))
    return _PREFERRED_MODEL if _PREFERRED_MODEL in models else None
