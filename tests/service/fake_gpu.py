"""FakeGpu: an Engine with a GPU that is not there; what runs is the CPU, in CUDA's clothes.

It shows what the service asks of ONNX Runtime where there is a GPU and what it makes of CUDA's
failures. It cannot show that ONNX Runtime does what it is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import onnxruntime

from service.cuda import CUDA_PROVIDER
from service.session import CPU_PROVIDER, OnnxRuntime, Provider

#: As ONNX Runtime words them: (what happened, its message).
ILLEGAL_ACCESS = (
    "Non-zero status code returned while running Conv node. Name:'conv' Status Message: CUDA "
    "failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=box ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/gpu_data_transfer.cc ; line=63 ; "
    "expr=cudaStreamSynchronize(stream);"
)
OUT_OF_MEMORY = (
    "Non-zero status code returned while running Conv node. Name:'conv' Status Message: "
    "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for "
    "requested buffer of size 939524096"
)


class FakeGpu(OnnxRuntime):
    """An engine on a machine with a GPU.

    Args:
        obstacle: why there is no GPU after all.
        complaint: what is missing of CUDA.
        falls_back: whether ONNX Runtime takes the CPU without a word.
        failure: for a batch of that size the message of the run's failure; None: it succeeds.
    """

    def __init__(
        self,
        *,
        obstacle: str | None = None,
        complaint: str | None = None,
        falls_back: bool = False,
        failure: Callable[[int], str | None] = lambda clips: None,
    ) -> None:
        self._obstacle = obstacle
        self._complaint = complaint
        self._falls_back = falls_back
        self.failure = failure
        self.asked_for: list[Provider] = []
        self.options: onnxruntime.SessionOptions | None = None
        self.allocated: list[tuple[int, ...]] = []
        #: (clips, CUDA graph's id, thread) of every run.
        self.runs: list[tuple[int, str, int]] = []

    def find_gpu_obstacle(self) -> str | None:
        return self._obstacle

    def load_cuda_libraries(self) -> str | None:
        return self._complaint

    def create_session(
        self, content: bytes, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
    ) -> Any:
        self.asked_for = list(providers)
        self.options = options
        session = super().create_session(content, options, [CPU_PROVIDER])
        on_gpu = providers[0] != CPU_PROVIDER and not self._falls_back
        return _GpuSession(session, self) if on_gpu else session

    def allocate(
        self, shape: Sequence[int], dtype: npt.DTypeLike, device: str
    ) -> onnxruntime.OrtValue:
        assert device == "cuda"
        self.allocated.append(tuple(shape))
        return super().allocate(shape, dtype, "cpu")


class _GpuSession:
    def __init__(self, session: onnxruntime.InferenceSession, gpu: FakeGpu) -> None:
        self._session = session
        self._gpu = gpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [CUDA_PROVIDER, CPU_PROVIDER]

    def run_with_iobinding(
        self, binding: onnxruntime.IOBinding, options: onnxruntime.RunOptions
    ) -> None:
        clips = binding.get_outputs()[0].shape()[0]
        try:
            graph = options.get_run_config_entry("gpu_graph_id")
        except RuntimeError:
            graph = ""
        self._gpu.runs.append((clips, graph, threading.get_ident()))
        failure = self._gpu.failure(clips)
        if failure is not None:
            raise RuntimeError(failure)
        self._session.run_with_iobinding(binding, options)
