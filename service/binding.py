"""BoundBatches: a session's runs on memory that is allocated and bound once for each batch size.

The clips are written straight into the memory that ONNX Runtime reads, and no run allocates its
input or output. CUDA graphs need this: a replay reads and writes the addresses of the capture. On
the CPU the model reads the host's memory itself; with CUDA there is a second tensor on the device
beside each host one. Everything else is the same code on both.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import onnxruntime

from clip.manifest import INPUT_NAME, OUTPUT_NAME, ModelManifest
from service.batching import Clips, Probabilities
from service.cuda import CUDA_PROVIDER
from service.session import Engine, SessionConfig, runs_on_provider

#: Most clips in one run where nothing else is asked for. On a CPU a batch takes as long as its
#: clips one by one, makes each wait for the others, and needs the memory of all.
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 1, 8


def choose_batch_size(config: SessionConfig, provider: str) -> int:
    """Most clips in one run of a model on this execution provider."""
    if config.max_batch_size is not None:
        return config.max_batch_size
    if config.batch_buckets is not None:
        return config.batch_buckets[-1]
    return GPU_BATCH_SIZE if provider == CUDA_PROVIDER else CPU_BATCH_SIZE


def choose_buckets(config: SessionConfig, provider: str) -> tuple[int, ...]:
    """The batch sizes that batches are padded to; none where each runs at its own size.

    A CPU's time grows with every clip of a batch, padding included. A GPU has to learn each size
    (search for kernels, capture a graph) before it is fast at it: few sizes, all learnt beforehand.
    """
    if config.batch_buckets is not None:
        return config.batch_buckets
    if provider != CUDA_PROVIDER:
        return ()
    largest = choose_batch_size(config, provider)
    powers = [1]
    while powers[-1] * 2 < largest:
        powers.append(powers[-1] * 2)
    return tuple(sorted({*powers, largest}))


class BoundBatches:
    """Runs batches of up to `max_batch_size` clips, one at a time.

    Attributes:
        max_batch_size: most clips in one run.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        manifest: ModelManifest,
        config: SessionConfig,
        engine: Engine,
    ) -> None:
        provider = runs_on_provider(session)
        self._session = session
        self._engine = engine
        self._on_gpu = provider == CUDA_PROVIDER
        self._graphs = self._on_gpu and config.cuda_graphs
        self._buckets = choose_buckets(config, provider)
        self.max_batch_size = choose_batch_size(config, provider)
        self._clip_shape = manifest.clip_spec.shape
        # The host's side of every batch size is the beginning of one array.
        self._frames = np.zeros((self.max_batch_size, *self._clip_shape), np.uint8)
        self._probabilities = np.zeros((self.max_batch_size, len(manifest.classes)), np.float32)
        self._bound: dict[int, _Bound] = {}

    @property
    def warm_up_sizes(self) -> tuple[int, ...]:
        """Batch sizes after which no later one is new to the runtime or has to allocate."""
        sizes = self._buckets or tuple(sorted({1, self.max_batch_size}))
        # A size's first run is a plain one, and only a later one is captured as its graph.
        return sizes * 2 if self._graphs else sizes

    def run(self, clips: Clips) -> Probabilities:
        """Classify up to `max_batch_size` clips; float32 (N, classes), the caller's own.

        Raises:
            ValueError: too many clips, or one of another shape than the model's.
            Exception: whatever ONNX Runtime raises.
        """
        count = len(clips)
        if not 1 <= count <= self.max_batch_size:
            raise ValueError(f"a batch has 1 to {self.max_batch_size} clips, not {count}")
        size = self._buckets[bisect_left(self._buckets, count)] if self._buckets else count
        for row, clip in enumerate(clips):
            if clip.shape != self._clip_shape:  # numpy would repeat a smaller one
                raise ValueError(f"a clip of shape {clip.shape}, not {self._clip_shape}")
            self._frames[row] = clip
        self._frames[count:size] = 0
        bound = self._bound.get(size)
        if bound is None:
            bound = self._bound[size] = self._bind(size)
        if bound.device_frames is not None:
            bound.device_frames.update_inplace(self._frames[:size])
        self._session.run_with_iobinding(bound.binding, bound.options)
        if bound.device_probabilities is not None:
            self._probabilities[:size] = bound.device_probabilities.numpy()
        # A copy: the next run writes where this one did.
        return self._probabilities[:count].copy()

    def _bind(self, size: int) -> _Bound:
        frames, probabilities = self._frames[:size], self._probabilities[:size]
        binding = self._session.io_binding()
        options = onnxruntime.RunOptions()
        if self._graphs:
            # Its own graph for each size, known by its number from the first run on.
            options.add_run_config_entry("gpu_graph_id", str(size))
        if not self._on_gpu:
            binding.bind_ortvalue_input(
                INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(frames)
            )
            binding.bind_ortvalue_output(
                OUTPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(probabilities)
            )
            return _Bound(binding, options)
        on_device = (
            self._engine.allocate(frames.shape, np.uint8, "cuda"),
            self._engine.allocate(probabilities.shape, np.float32, "cuda"),
        )
        binding.bind_ortvalue_input(INPUT_NAME, on_device[0])
        binding.bind_ortvalue_output(OUTPUT_NAME, on_device[1])
        return _Bound(binding, options, *on_device)


@dataclass(frozen=True, slots=True)
class _Bound:
    """One batch size's binding; the tensors on the device only where it is not the CPU."""

    binding: onnxruntime.IOBinding
    options: onnxruntime.RunOptions
    device_frames: onnxruntime.OrtValue | None = None
    device_probabilities: onnxruntime.OrtValue | None = None
