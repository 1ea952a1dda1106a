"""Sessions of ONNX Runtime: opened with every option said, on a device that is really there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.cuda import CUDA_PROVIDER, find_gpu_obstacle, load_cuda_libraries, provider_options
from service.settings import Device

logger: Final = logging.getLogger(__name__)

CPU_PROVIDER = "CPUExecutionProvider"

_LOG_ERRORS_ONLY = 3
# Weights kept in other files would escape the sha256: the model looks for them where nothing is.
_NO_EXTERNAL_DATA = "/nonexistent/external-data-is-not-allowed"

#: A provider, or a provider with its options.
Provider: TypeAlias = str | tuple[str, Mapping[str, str]]


class ModelLoadError(RuntimeError):
    """A model that must not be served; the message says why and is for whoever runs the service."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Where and how a model runs.

    Attributes:
        device: "cuda" insists on it, "auto" takes it if it works, "cpu" never tries.
        intra_op_threads: threads of one run on the CPU; ONNX Runtime's own default counts the
            host's cores inside a container.
        max_batch_size: most clips in one run. None: the last of batch_buckets, else what pays on
            the device.
        batch_buckets: the sizes that batches are padded to, ascending, the last max_batch_size.
            None: on the CPU no padding, with CUDA powers of two.
        cuda_graphs: with CUDA, capture a graph for each bucket and replay it.
        gpu_memory_bytes: most GPU memory for the model's arena; None is no limit.
    """

    device: Device = "auto"
    intra_op_threads: int = 1
    max_batch_size: int | None = None
    batch_buckets: tuple[int, ...] | None = None
    cuda_graphs: bool = False
    gpu_memory_bytes: int | None = None


class Engine(Protocol):
    """What the service uses of ONNX Runtime and of the machine; a test passes one with a GPU."""

    def find_gpu_obstacle(self) -> str | None:
        """Why there is no GPU; None if there is one."""

    def load_cuda_libraries(self) -> str | None:
        """Load CUDA; the complaint if that cannot be."""

    def create_session(
        self, content: bytes, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
    ) -> onnxruntime.InferenceSession:
        """A session on the bytes of a model; raises whatever ONNX Runtime raises."""

    def allocate(
        self, shape: Sequence[int], dtype: npt.DTypeLike, device: str
    ) -> onnxruntime.OrtValue:
        """Memory for a tensor on a device, "cuda"."""


class OnnxRuntime:
    """The real Engine."""

    def find_gpu_obstacle(self) -> str | None:
        """See service.cuda."""
        return find_gpu_obstacle()

    def load_cuda_libraries(self) -> str | None:
        """See service.cuda."""
        return load_cuda_libraries()

    def create_session(
        self, content: bytes, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
    ) -> onnxruntime.InferenceSession:
        """Without ONNX Runtime's fallback, which prints a failure and tries the CPU."""
        return onnxruntime.InferenceSession(
            content, options, providers=list(providers), enable_fallback=0
        )

    def allocate(
        self, shape: Sequence[int], dtype: npt.DTypeLike, device: str
    ) -> onnxruntime.OrtValue:
        """On the first device of that kind: CUDA_VISIBLE_DEVICES says which that is."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, device, 0
        )


ONNX_RUNTIME: Final[Engine] = OnnxRuntime()


def open_session(
    content: bytes, config: SessionConfig, engine: Engine = ONNX_RUNTIME
) -> onnxruntime.InferenceSession:
    """A session on an .onnx file's bytes, on the device that the configuration asks for.

    Raises:
        ModelLoadError: ONNX Runtime does not take the bytes, or the device is not to be had.
    """
    providers = _choose_providers(config, engine)
    try:
        session = engine.create_session(content, session_options(config, providers), providers)
    except Exception as error:  # ONNX Runtime's exceptions share no narrower class
        reason = str(error).partition("\n")[0]
        raise ModelLoadError(f"ONNX Runtime cannot load model.onnx: {reason}") from error
    runs_on = runs_on_provider(session)
    if runs_on != CUDA_PROVIDER and len(providers) > 1:
        if config.device == "cuda":
            raise ModelLoadError(f"HAR_DEVICE=cuda, but ONNX Runtime fell back to {runs_on}")
        logger.warning("there is a GPU but ONNX Runtime fell back to %s", runs_on)
    return session


def expects_gpu(config: SessionConfig, engine: Engine = ONNX_RUNTIME) -> bool:
    """Whether models should run on a GPU: it is asked for, or it is there and may be taken."""
    if config.device == "auto":
        return engine.find_gpu_obstacle() is None
    return config.device == "cuda"


def runs_on_provider(session: onnxruntime.InferenceSession) -> str:
    """The execution provider that really runs the model, whatever was asked for."""
    return str(session.get_providers()[0])


def session_options(
    config: SessionConfig, providers: Sequence[Provider]
) -> onnxruntime.SessionOptions:
    """The options of a session, every one that matters said."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # With CUDA the CPU only launches kernels: more threads would spin beside the decoders.
    on_cpu = list(providers) == [CPU_PROVIDER]
    options.intra_op_num_threads = config.intra_op_threads if on_cpu else 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", _NO_EXTERNAL_DATA
    )
    # For count_nodes().
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _choose_providers(config: SessionConfig, engine: Engine) -> Sequence[Provider]:
    """The providers to ask for; CUDA only where it should load, because the attempt is loud."""
    if config.device == "cpu":
        return [CPU_PROVIDER]
    obstacle = engine.find_gpu_obstacle()
    if obstacle is None:
        obstacle = engine.load_cuda_libraries()
        if obstacle is not None and config.device == "auto":
            logger.warning("there is a GPU but CUDA is not to be had: %s", obstacle)
    if obstacle is None:
        cuda = provider_options(memory_bytes=config.gpu_memory_bytes, graphs=config.cuda_graphs)
        return [(CUDA_PROVIDER, cuda), CPU_PROVIDER]
    if config.device == "cuda":
        raise ModelLoadError(f"HAR_DEVICE=cuda, but CUDA is not to be had: {obstacle}")
    return [CPU_PROVIDER]


def count_nodes(session: onnxruntime.InferenceSession) -> Mapping[str, int]:
    """How many nodes of the graph each execution provider was given."""
    nodes: dict[str, int] = {}
    subgraph: Any
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] = nodes.get(subgraph.ep_name, 0) + len(subgraph.get_nodes())
    return nodes
