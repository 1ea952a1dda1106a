"""ModelRegistry: the published models as verified models that are ready to run.

A registry never changes. A reload makes a new one, which shares with the old one every model that
is still published as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

from service.errors import InvalidParameterError, UnknownModelError, UnknownVersionError
from service.inference import CPU_PROVIDER, OnnxModel, check_digest
from service.published import BadModelError, Found, PublishedModel, find_published
from service.session import ONNX_RUNTIME, Engine, ModelLoadError, SessionConfig, expects_gpu

logger: Final = logging.getLogger(__name__)

#: Whichever of these is published first serves requests that name no model, where there are
#: several and HAR_DEFAULT_MODEL is not set.
PREFERRED_MODELS: Final = ("lrcn-efficientnet", "lrcn")


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Which models are served and how.

    Attributes:
        models_dir: the folder that holds a folder for each name.
        session: where and how the models run.
        default_model: the model of requests that name none.
        max_versions: how many versions of each model, the newest; None is all.
    """

    models_dir: Path
    session: SessionConfig
    default_model: str | None = None
    max_versions: int | None = None


@dataclass(slots=True)
class Changes:
    """What a reload did, by "<name>/<version>".

    Attributes:
        loaded, kept, removed: models that are new, as before, and not served any more.
        failed: what is in the folder and must not be served, and why. If it was served before in
            a sound state, it is among `kept`.
    """

    loaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class ModelRegistry:
    """The models that are served, by name and version.

    Attributes:
        default: the model of requests that name none.
        expects_gpu: whether the models should run on a GPU, wherever they do.
    """

    def __init__(
        self, models: Iterable[OnnxModel], *, default: str | None, expects_gpu: bool = False
    ) -> None:
        self._models: dict[str, dict[int, OnnxModel]] = {}
        for model in sorted(models, key=lambda model: (model.manifest.name, -_version(model))):
            self._models.setdefault(model.manifest.name, {})[_version(model)] = model
        self.default = default
        self.expects_gpu = expects_gpu

    @classmethod
    def load(cls, config: RegistryConfig, engine: Engine = ONNX_RUNTIME) -> ModelRegistry:
        """Load, verify and warm every model that serves. Blocks for seconds: call it in a thread.

        Raises:
            ModelLoadError: a model is bad, there is none, or the default is not among them.
        """
        found = find_published(config.models_dir)
        if found.faults:
            raise found.faults[0]
        models: list[OnnxModel] = []
        for versions in _by_name(found):
            models.extend(
                _load_model(published, config.session, engine, is_newest=published is versions[0])
                for published in versions[: config.max_versions]
            )
        return cls(
            models,
            default=_choose_default(models, config.default_model),
            expects_gpu=expects_gpu(config.session, engine),
        )

    def reload(
        self, config: RegistryConfig, engine: Engine = ONNX_RUNTIME
    ) -> tuple[ModelRegistry, Changes]:
        """The registry of what is published now. Blocks for seconds: call it in a thread.

        A model that is bad is left out and told. If a sound one was served in its place, by that
        name and version, it goes on serving.

        Raises:
            ModelLoadError: there is nothing to serve in the folder, or not the default model.
        """
        found = find_published(config.models_dir)
        changes = Changes()
        for fault in found.faults:
            _note_failure(changes, fault)
        before = _by_key(self)
        served: dict[str, OnnxModel] = {}
        for versions in _by_name(found):
            count = 0
            for published in versions:
                if count == config.max_versions:
                    break
                try:
                    model = self._renew(published, config.session, engine, is_newest=count == 0)
                except BadModelError as fault:
                    _note_failure(changes, fault)
                    if published.key not in before:
                        continue
                    model = before[published.key]  # it was sound when it was loaded
                served[published.key] = model
                count += 1
        for key, model in before.items():  # the same for those whose manifest is gone or bad
            if not {key, model.manifest.name}.isdisjoint(changes.failed):
                served.setdefault(key, model)
        if not served:
            raise ModelLoadError(f"{config.models_dir}: no sound model here")
        try:
            default = _choose_default(served.values(), config.default_model)
        except ModelLoadError:
            _close_all(model for key, model in served.items() if before.get(key) is not model)
            raise
        for key, model in served.items():
            (changes.kept if before.get(key) is model else changes.loaded).append(key)
        changes.removed.extend(key for key in before if key not in served)
        gpu = expects_gpu(config.session, engine)
        return ModelRegistry(served.values(), default=default, expects_gpu=gpu), changes

    def _renew(
        self,
        published: PublishedModel,
        session: SessionConfig,
        engine: Engine,
        *,
        is_newest: bool,
    ) -> OnnxModel:
        """The model for what is published: the one that serves already if nothing has changed."""
        manifest = published.manifest
        current = self._models.get(manifest.name, {}).get(manifest.version)
        if current is None or current.manifest != manifest:
            return _load_model(published, session, engine, is_newest=is_newest)
        # It serves from memory; but a file that was damaged since would fail the next start.
        _check_file(published)
        return current

    def __iter__(self) -> Iterator[OnnxModel]:
        """Every model and version, by name, the newest version first."""
        for versions in self._models.values():
            yield from versions.values()

    def newest(self) -> Sequence[OnnxModel]:
        """Of each name the version that serves requests which name none."""
        return [next(iter(versions.values())) for versions in self._models.values()]

    def versions(self, name: str) -> Sequence[int]:
        """The versions of a model that are served, newest first."""
        return list(self._models[name])

    def get(self, name: str | None, version: int | None = None) -> OnnxModel:
        """The model of that name and version; the default for no name, the newest for no version.

        Raises:
            UnknownModelError: there is none of that name.
            UnknownVersionError: there is, but not in that version.
            InvalidParameterError: no name was given and there is no default.
        """
        if name is None:
            if self.default is None:
                raise InvalidParameterError("Say which model: GET /models lists them.")
            name = self.default
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError("There is no such model: GET /models lists them.")
        if version is None:
            return next(iter(versions.values()))
        if version not in versions:
            raise UnknownVersionError("There is no such version: GET /models lists them.")
        return versions[version]


def _version(model: OnnxModel) -> int:
    return model.manifest.version


def _by_key(models: Iterable[OnnxModel]) -> Mapping[str, OnnxModel]:
    return {f"{model.manifest.name}/{model.manifest.version}": model for model in models}


def _by_name(found: Found) -> Iterator[list[PublishedModel]]:
    """The versions of each model, newest first."""
    for _, versions in groupby(found.models, key=lambda published: published.manifest.name):
        yield list(versions)


def _load_model(
    published: PublishedModel, session: SessionConfig, engine: Engine, *, is_newest: bool
) -> OnnxModel:
    content = published.read()
    try:
        model = OnnxModel.load(content, published.manifest, session, engine)
        # On the CPU a large batch's memory stays with the session: an old version, of which little
        # is asked, gets it when it is first needed.
        everything = is_newest or model.provider != CPU_PROVIDER
        model.warm_up(model.warm_up_sizes if everything else model.warm_up_sizes[:1])
    except ModelLoadError as error:
        raise published.refuse(str(error)) from error
    logger.info("loaded %s on %s", published.key, model.provider)
    return model


def _check_file(published: PublishedModel) -> None:
    content = published.read()
    try:
        check_digest(content, published.manifest)
    except ModelLoadError as error:
        raise published.refuse(str(error)) from error


def _note_failure(changes: Changes, fault: BadModelError) -> None:
    logger.error("reload: %s", fault)
    changes.failed[fault.key] = fault.reason


def _close_all(models: Iterable[OnnxModel]) -> None:
    for model in models:
        model.close()


def _choose_default(models: Iterable[OnnxModel], wanted: str | None) -> str | None:
    names = sorted({model.manifest.name for model in models})
    if wanted is not None:
        if wanted not in names:
            raise ModelLoadError(f"HAR_DEFAULT_MODEL={wanted} is not among {', '.join(names)}")
        return wanted
    if len(names) == 1:
        return names[0]
    return next((name for name in PREFERRED_MODELS if name in names), None)
