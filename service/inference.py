"""OnnxModel: one verified, warmed model and the checks around its runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime

from clip.errors import ManifestError
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelManifest
from service.batching import Clips, Outcome, Probabilities
from service.binding import BoundBatches
from service.cuda import CUDA_PROVIDER, CudaFailure, classify_failure
from service.errors import GpuLostError, GpuMemoryError, ModelOutputError
from service.session import (
    CPU_PROVIDER,
    ONNX_RUNTIME,
    Engine,
    ModelLoadError,
    SessionConfig,
    count_nodes,
    open_session,
    runs_on_provider,
)

__all__ = ["CPU_PROVIDER", "ModelLoadError", "OnnxModel", "SessionConfig"]

#: How far a row of float32 softmax outputs may be from summing to 1.
_SUM_TOLERANCE = 1e-3
#: Clips in a row for which there was no GPU memory, each tried alone, after which waiting for it
#: is given up.
_MAX_MEMORY_FAILURES = 8
# ONNX Runtime's words for an output that is not of the shape that was bound for it.
_WRONG_SHAPE = "but the computed output shape for this run is"


class OnnxModel:
    """A model: OnnxModel.load(), then warm_up(), then run() in its runner thread, then close().

    Attributes:
        manifest: of the model.
        runner: the one thread for its runs. CUDA graphs and cuDNN's choices belong to the thread
            that made them: what warms the model up has to be what serves.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: ModelManifest, batches: BoundBatches
    ) -> None:
        self._session = session
        self._batches = batches
        self._running = Lock()
        self._memory_failures = 0
        self.manifest = manifest
        self.runner = ThreadPoolExecutor(
            1, thread_name_prefix=f"infer-{manifest.name}-{manifest.version}"
        )

    @classmethod
    def load(
        cls,
        content: bytes,
        manifest: ModelManifest,
        config: SessionConfig,
        engine: Engine = ONNX_RUNTIME,
    ) -> OnnxModel:
        """Open a session on an .onnx file's bytes after checking that they are the manifest's.

        Raises:
            ModelLoadError: other bytes than were published, a graph that contradicts the manifest,
                or a device that is not to be had.
        """
        check_digest(content, manifest)
        session = open_session(content, config, engine)
        _check_metadata(session, manifest)
        _check_tensor("input", session.get_inputs(), INPUT_NAME, "uint8", manifest.input_shape)
        _check_tensor("output", session.get_outputs(), OUTPUT_NAME, "float", manifest.output_shape)
        return cls(session, manifest, BoundBatches(session, manifest, config, engine))

    def close(self) -> None:
        """End the runner thread, when nothing runs any more."""
        self.runner.shutdown()

    @property
    def provider(self) -> str:
        """The execution provider that really runs the model, whatever was asked for."""
        return runs_on_provider(self._session)

    @property
    def nodes(self) -> Mapping[str, int]:
        """How many nodes of the graph each execution provider runs."""
        return count_nodes(self._session)

    @property
    def max_batch_size(self) -> int:
        """Most clips in one run."""
        return self._batches.max_batch_size

    @property
    def warm_up_sizes(self) -> tuple[int, ...]:
        """The batch sizes that have to be run once before no client pays for their first time."""
        return self._batches.warm_up_sizes

    def warm_up(self, batch_sizes: Iterable[int] | None = None) -> None:
        """Run each batch size once in the runner thread; without an argument all that it takes.

        Raises:
            ModelLoadError: a run fails or gives no probabilities.
        """
        for batch_size in batch_sizes or self.warm_up_sizes:
            frames = np.zeros((batch_size, *self.manifest.clip_spec.shape), np.uint8)
            try:
                outcomes = self.runner.submit(self.run, frames).result()
            except Exception as error:
                raise ModelLoadError(f"a run on black frames fails: {error}") from error
            for outcome in outcomes:
                if isinstance(outcome, ModelOutputError):
                    raise ModelLoadError(f"a run on black frames: {outcome.detail}")

    def run(self, clips: Clips) -> Sequence[Outcome]:
        """Classify a batch.

        Args:
            clips: up to max_batch_size of them, each uint8 (frames, height, width, 3).

        Returns:
            For each clip its probabilities, float32 (classes,), or a ModelOutputError.

        Raises:
            GpuMemoryError: the GPU's memory did not do for so many.
            GpuLostError: CUDA has failed and does not come back in this process.
            Exception: whatever else ONNX Runtime raises; then there is no result for any clip.
        """
        try:
            with self._running:
                output = self._batches.run(clips)
        except Exception as error:
            if _WRONG_SHAPE in str(error):
                return [ModelOutputError("The model's output has the wrong shape.") for _ in clips]
            if self.provider == CUDA_PROVIDER:
                self._raise_cuda_failure(error, len(clips))
            raise
        self._memory_failures = 0
        return [_check_row(row) for row in output]

    def _raise_cuda_failure(self, error: Exception, clips: int) -> None:
        failure = classify_failure(str(error))
        if failure is CudaFailure.LOST:
            raise GpuLostError(reason=f"CUDA has failed: {_first_line(error)}") from error
        if failure is CudaFailure.OUT_OF_MEMORY:
            self._memory_failures += clips == 1
            if self._memory_failures >= _MAX_MEMORY_FAILURES:
                raise GpuLostError(
                    reason=f"no GPU memory for {self._memory_failures} clips in a row: "
                    f"{_first_line(error)}"
                ) from error
            raise GpuMemoryError from error


def check_digest(content: bytes, manifest: ModelManifest) -> None:
    """Hold an .onnx file's bytes to the sha256 in the manifest.

    Raises:
        ModelLoadError: they are others.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise ModelLoadError(
            f"sha256 of model.onnx is {digest}, manifest.json says {manifest.sha256 or 'nothing'}"
        )


def _check_metadata(session: onnxruntime.InferenceSession, manifest: ModelManifest) -> None:
    """Hold the record beside the file, where it is easily edited, to the one inside."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelLoadError(f"model.onnx holds no {METADATA_KEY} metadata")
    try:
        inside = ModelManifest.from_json(text)
    except ManifestError as error:
        raise ModelLoadError(f"{METADATA_KEY} inside model.onnx: {error}") from error
    if inside != replace(manifest, sha256=""):
        raise ModelLoadError("manifest.json differs from the record inside model.onnx")


def _check_tensor(
    role: str, found: Sequence[Any], name: str, dtype: str, shape: tuple[int | None, ...]
) -> None:
    """Hold the graph's only input or output to the manifest; the batch axis must be free."""
    if [tensor.name for tensor in found] != [name]:
        names = ", ".join(tensor.name for tensor in found) or "nothing"
        raise ModelLoadError(f"the {role} must be {name!r} alone, the graph has {names}")
    (tensor,) = found
    if tensor.type != f"tensor({dtype})":
        raise ModelLoadError(f"{role} {name!r} is {tensor.type}, not tensor({dtype})")
    # A free axis is a name or None.
    axes = tuple(axis if isinstance(axis, int) else None for axis in tensor.shape)
    if axes != shape:
        raise ModelLoadError(
            f"{role} {name!r} has shape {list(tensor.shape)}, not {['N', *shape[1:]]}"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _check_row(row: Probabilities) -> Outcome:
    if not np.isfinite(row).all():
        return ModelOutputError("The model's output is not finite.")
    if row.min() < 0 or abs(float(row.sum()) - 1) > _SUM_TOLERANCE:
        return ModelOutputError("The model's output is not a probability distribution.")
    return row
