"""OnnxModel: one verified, warmed ONNX Runtime session and the checks around its runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnxruntime

from clip.errors import ManifestError
from clip.manifest import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ModelManifest
from service.batching import Frames, Outcome, Probabilities
from service.cuda import CUDA_PROVIDER, find_gpu_obstacle, load_cuda_libraries
from service.errors import ModelOutputError
from service.settings import Device

logger: Final = logging.getLogger(__name__)

CPU_PROVIDER = "CPUExecutionProvider"

#: How far a row of float32 softmax outputs may be from summing to 1.
_SUM_TOLERANCE = 1e-3
_LOG_ERRORS_ONLY = 3
# Weights kept in other files would escape the sha256: the model looks for them where nothing is.
_NO_EXTERNAL_DATA = "/nonexistent/external-data-is-not-allowed"


class ModelLoadError(RuntimeError):
    """A model that must not be served; the message says why and is for whoever runs the service."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Where and how a model runs.

    Attributes:
        device: "cuda" insists on it, "auto" takes it if it works, "cpu" never tries.
        intra_op_threads: threads of one run on the CPU; ONNX Runtime's own default counts the
            host's cores inside a container.
    """

    device: Device = "auto"
    intra_op_threads: int = 1


class OnnxModel:
    """A session ready to run: OnnxModel.load(), then warm_up(), then run() from one thread."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: ModelManifest) -> None:
        self._session = session
        self.manifest = manifest

    @classmethod
    def load(cls, content: bytes, manifest: ModelManifest, config: SessionConfig) -> OnnxModel:
        """Open a session on an .onnx file's bytes after checking that they are the manifest's.

        Raises:
            ModelLoadError: other bytes than were published, a graph that contradicts the manifest,
                or a device that is not to be had.
        """
        digest = hashlib.sha256(content).hexdigest()
        if digest != manifest.sha256:
            raise ModelLoadError(
                f"sha256 of model.onnx is {digest}, manifest.json says "
                f"{manifest.sha256 or 'nothing'}"
            )
        session = _open_session(content, config)
        model = cls(session, manifest)
        model._check_metadata()
        _check_tensor("input", session.get_inputs(), INPUT_NAME, "uint8", manifest.input_shape)
        _check_tensor("output", session.get_outputs(), OUTPUT_NAME, "float", manifest.output_shape)
        return model

    @property
    def provider(self) -> str:
        """The execution provider that really runs the model, whatever was asked for."""
        return str(self._session.get_providers()[0])

    def warm_up(self, batch_sizes: Iterable[int]) -> None:
        """Run each batch size once, so that no client pays for first-time allocations.

        Raises:
            ModelLoadError: a run fails or gives no probabilities.
        """
        for batch_size in batch_sizes:
            frames = np.zeros((batch_size, *self.manifest.clip_spec.shape), np.uint8)
            try:
                outcomes = self.run(frames)
            except Exception as error:
                raise ModelLoadError(f"a run on black frames fails: {error}") from error
            for outcome in outcomes:
                if isinstance(outcome, ModelOutputError):
                    raise ModelLoadError(f"a run on black frames: {outcome.detail}")

    def run(self, frames: Frames) -> Sequence[Outcome]:
        """Classify a batch.

        Args:
            frames: uint8 (N, frames, height, width, 3).

        Returns:
            For each clip its probabilities, float32 (classes,), or a ModelOutputError.

        Raises:
            Exception: whatever ONNX Runtime raises; then there is no result for any clip.
        """
        (output,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: frames})
        wanted = len(frames), len(self.manifest.classes)
        if output.shape != wanted:
            return [
                ModelOutputError("The model's output has the wrong shape.")
                for _ in range(len(frames))
            ]
        return [_check_row(row) for row in output]

    def _check_metadata(self) -> None:
        """Hold the record beside the file, where it is easily edited, to the one inside."""
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise ModelLoadError(f"model.onnx holds no {METADATA_KEY} metadata")
        try:
            inside = ModelManifest.from_json(text)
        except ManifestError as error:
            raise ModelLoadError(f"{METADATA_KEY} inside model.onnx: {error}") from error
        if inside != replace(self.manifest, sha256=""):
            raise ModelLoadError("manifest.json differs from the record inside model.onnx")


def _open_session(content: bytes, config: SessionConfig) -> onnxruntime.InferenceSession:
    providers = _choose_providers(config.device)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # With CUDA the CPU only launches kernels: more threads would spin beside the decoders.
    on_cpu = providers == [CPU_PROVIDER]
    options.intra_op_num_threads = config.intra_op_threads if on_cpu else 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NO_EXTERNAL_DATA
    )
    try:
        # enable_fallback=0: otherwise a failure is printed, swallowed and tried again on the CPU.
        session = onnxruntime.InferenceSession(
            content, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no narrower class
        reason = str(error).partition("\n")[0]
        raise ModelLoadError(f"ONNX Runtime cannot load model.onnx: {reason}") from error
    runs_on = session.get_providers()[0]
    if config.device == "cuda" and runs_on != CUDA_PROVIDER:
        raise ModelLoadError(f"HAR_DEVICE=cuda, but ONNX Runtime fell back to {runs_on}")
    return session


def _choose_providers(device: Device) -> list[str]:
    """The providers to ask for; CUDA only where it should load, because the attempt is loud."""
    if device == "cpu":
        return [CPU_PROVIDER]
    obstacle = find_gpu_obstacle()
    if obstacle is None:
        obstacle = load_cuda_libraries()
        if obstacle is not None and device == "auto":
            logger.warning("there is a GPU but CUDA is not to be had: %s", obstacle)
    if obstacle is None:
        return [CUDA_PROVIDER, CPU_PROVIDER]
    if device == "cuda":
        raise ModelLoadError(f"HAR_DEVICE=cuda, but CUDA is not to be had: {obstacle}")
    return [CPU_PROVIDER]


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


def _check_row(row: Probabilities) -> Outcome:
    if not np.isfinite(row).all():
        return ModelOutputError("The model's output is not finite.")
    if row.min() < 0 or abs(float(row.sum()) - 1) > _SUM_TOLERANCE:
        return ModelOutputError("The model's output is not a probability distribution.")
    return row
