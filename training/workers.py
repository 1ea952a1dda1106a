"""Training on several machines: each takes its share of every batch, gradients are summed.

    TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]},
                "task": {"type": "worker", "index": 0}}'

and the same command on each, with --out in a folder that all see. The first worker is the chief and
alone writes. Weights, optimizer and decisions are the same everywhere, so all go on from the
chief's checkpoint.

tf.distribute.MultiWorkerMirroredStrategy forms the cluster, but Keras 3 cannot fit() under it
(docs/decisions.md). So every worker fits a model of its own, and what has to be common goes through
TensorFlow's collective sum: gradients every step, moving statistics and figures every epoch. NOT
covered: synchronised batch statistics (each worker normalises by its share, as under the strategy),
workers that join or leave, sharing the work of augmentation.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.batches import ClipBatches

Tensor = Any  # tensorflow ships no types

#: Names of the sums, which every worker must give alike.
_GROUP_KEY, _GRADIENTS_KEY, _FIGURES_KEY = 4201, 4202, 4203
#: A worker that stays away for so long has died; slow epochs on one do not take as long.
_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Workers:
    """The cluster as one of its workers sees it; a cluster of one without TF_CONFIG."""

    count: int = 1
    index: int = 0
    strategy: Any = None

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes."""
        return self.index == 0

    def average(self, values: Tensor, key: int) -> Tensor:
        """The mean of a float32 vector over the workers; all must call it, in the same order."""
        if self.count == 1:
            return values
        total = tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=self.count,
            group_key=_GROUP_KEY,
            instance_key=key,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            timeout_seconds=_TIMEOUT_S,
        )
        return total / self.count


def join_workers() -> Workers:
    """Meet the workers that TF_CONFIG names; before TensorFlow's first operation."""
    if "TF_CONFIG" not in os.environ:
        return Workers()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    count = resolver.cluster_spec().num_tasks("worker")
    return Workers(count, resolver.task_id or 0, strategy)


def share_gradients(optimizer: type[Any], workers: Workers) -> type[Any]:
    """A Keras optimizer that applies the mean of all workers' gradients."""
    if workers.count == 1:
        return optimizer

    class Shared(optimizer):  # type: ignore[misc]
        def apply(
            self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None
        ) -> Any:
            shapes = [gradient.shape for gradient in grads]
            flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in grads], 0)
            parts = tf.split(
                workers.average(flat, _GRADIENTS_KEY), [shape.num_elements() for shape in shapes]
            )
            means = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            return super().apply(means, trainable_variables)

    return Shared


class WorkerBatches(keras.utils.PyDataset):  # type: ignore[misc]  # keras ships no types
    """A worker's share of each batch, and the weights that make the mean over workers the batch's.

    A share of n of a batch's N clips has a mean loss of its own n: weighted by n / N times the
    number of workers, the mean over the workers is that of the N. A clip also has its class's
    weight. A worker that gets no clip of a small last batch takes one, with weight 0.
    """

    def __init__(
        self,
        batches: ClipBatches,
        cluster: Workers,
        class_weights: Mapping[int, float] | None,
    ) -> None:
        # These are threads of this process.
        super().__init__(workers=batches.workers, max_queue_size=batches.max_queue_size)
        self._batches = batches
        self._cluster = cluster
        self._class_weights = class_weights

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> tuple[npt.NDArray[Any], ...]:
        clips, targets = self._batches[batch]
        weights = np.ones(len(clips), np.float32)
        if self._class_weights:
            labels = targets.argmax(axis=1).tolist()
            weights = np.array([self._class_weights[label] for label in labels], np.float32)
        mine = slice(self._cluster.index, None, self._cluster.count)
        share = len(clips[mine]) * self._cluster.count / len(clips)
        if share == 0:
            return clips[:1], targets[:1], np.zeros(1, np.float32)
        return clips[mine], targets[mine], weights[mine] * np.float32(share)


class AgreeEveryEpoch(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Averages what workers know differently, so that all judge an epoch alike.

    Before the validation the moving statistics of batch normalisation, after it the figures.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Average the moving statistics."""
        statistics = self.model.non_trainable_weights
        if self._workers.count > 1 and statistics:
            flat = np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in statistics])
            mean = self._average(flat)
            for variable, part in zip(
                statistics,
                np.split(mean, np.cumsum([np.prod(v.shape) for v in statistics])[:-1].astype(int)),
                strict=True,
            ):
                variable.assign(part.reshape(variable.shape))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Average the epoch's figures, in place."""
        if self._workers.count > 1:
            names = sorted(logs)
            mean = self._average(np.array([logs[name] for name in names], np.float32))
            logs.update(zip(names, mean.tolist(), strict=True))

    def _average(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        means = self._workers.average(tf.constant(values, tf.float32), _FIGURES_KEY)
        return np.asarray(means.numpy(), np.float32)
