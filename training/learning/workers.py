"""Training on several machines: each takes its share of every batch, gradients are summed.

    TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222"]},
                "task": {"type": "worker", "index": 0}}'

and the same command on each, with --out in a folder that all see. The task of type "chief", or
without one the first worker, is the chief and alone writes. Before the training all make sure that
they were started alike, on the same clips. Weights, optimizer and decisions are the same
everywhere, so all go on from the chief's checkpoint.

tf.distribute.MultiWorkerMirroredStrategy forms the cluster, but Keras 3 cannot fit() under it
(docs/decisions.md). So every worker fits a model of its own, and what has to be common goes through
TensorFlow's collective sum: gradients every step, moving statistics and figures every epoch. Other
weights that are not trained stand still, and the generators of the dropout layers are not averaged:
they have the same seed everywhere and take a step with every batch, so that each worker drops the
same places of its own clips, and the chief's checkpoint has the state of all. NOT covered:
synchronised batch statistics (each worker normalises by its share, as under the strategy), workers
that join or leave, sharing the work of augmentation.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from training.errors import OptionError
from training.learning.batches import ClipBatches

Tensor = Any  # tensorflow ships no types

_GROUP_KEY = 4201
#: Names of the sums, which every worker must give alike; below _KEYS.
_GRADIENTS_KEY, _FIGURES_KEY, _FACTS_KEY = range(3)
_KEYS = 3
#: So many bytes of a fact's digest are compared.
_DIGEST_BYTES = 8
#: What batch normalisation measures on each worker's own clips.
_MOVING = frozenset({"moving_mean", "moving_variance"})
#: A worker that stays away for so long has died; slow epochs on one do not take as long.
_TIMEOUT_S = 3600.0


#: What TensorFlow raises when a collective sum cannot be formed any more.
_GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


class WorkersError(RuntimeError):
    """The workers cannot go on together."""


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
        """The mean of a vector over the workers; all must call it, in the same order."""
        if self.count == 1:
            return values
        return self._reduce(values, key, "Add") / self.count

    def differing(self, facts: Mapping[str, object]) -> list[str]:
        """Which facts are not the same at all workers; all must call it, with the same names.

        Args:
            facts: JSON values by name.

        Returns:
            Their names, the same at every worker.
        """
        if self.count == 1:
            return []
        names = sorted(facts)
        digests = [
            hashlib.sha256(json.dumps(facts[name], sort_keys=True).encode()).digest()
            for name in names
        ]
        mine = np.array([list(digest[:_DIGEST_BYTES]) for digest in digests], np.float64)
        # The largest of x and of -x cancel each other out where every worker has the same x.
        flat = np.concatenate([mine.ravel(), -mine.ravel()])
        highest, lowest = np.split(
            np.asarray(self._reduce(tf.constant(flat), _FACTS_KEY, "Max")), 2
        )
        unequal = (highest + lowest).reshape(mine.shape).any(axis=1)
        return [name for name, differs in zip(names, unequal, strict=True) if differs]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell in words that another worker is gone.

        Raises:
            WorkersError: it is.
        """
        try:
            yield
        except _GONE as error:
            if self.count == 1:
                raise
            reason = str(error).strip().splitlines()[0]
            raise WorkersError(
                "another worker has ended or cannot be reached: see what it says, then start all "
                f"of them with --resume ({reason})"
            ) from error

    def _reduce(self, values: Tensor, key: int, operation: str) -> Tensor:
        return tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=self.count,
            group_key=_GROUP_KEY,
            # TensorFlow holds a key to one length. That of the gradients is another in every phase,
            # and the moving statistics are more than the figures.
            instance_key=values.shape.num_elements() * _KEYS + key,
            ordering_token=[],
            merge_op=operation,
            final_op="Id",
            timeout_seconds=_TIMEOUT_S,
        )


def join_workers() -> Workers:
    """Meet the workers that TF_CONFIG names; before TensorFlow's first operation.

    Raises:
        OptionError: TF_CONFIG is not what it should be.
    """
    count, index = read_cluster(os.environ.get("TF_CONFIG", ""))
    if count == 1:
        return Workers()
    return Workers(count, index, tf.distribute.MultiWorkerMirroredStrategy())


def read_cluster(text: str) -> tuple[int, int]:
    """(how many workers there are, the number of this one) by the text of TF_CONFIG.

    The chief has number 0: the task of type "chief", or the first worker where there is none.

    Raises:
        OptionError: it is no such JSON, names tasks of other types, does not say which of several
            this is, or names one that is not there.
    """
    try:
        config = json.loads(text) if text.strip() else {}
        addresses = config.get("cluster", {})
        if any(isinstance(of_kind, str) for of_kind in addresses.values()):
            raise TypeError("addresses must be a list")
        cluster = {kind: len(of_kind) for kind, of_kind in addresses.items()}
        task = config.get("task", {})
        untold = {"type", "index"} - task.keys()
        kind, index = str(task.get("type", "worker")), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise OptionError(f"TF_CONFIG is not a JSON object of cluster and task: {error}") from error
    if not cluster:
        return 1, 0
    others = sorted(cluster.keys() - {"chief", "worker"})
    if others:
        raise OptionError(
            f"TF_CONFIG names tasks of type {', '.join(others)}: there are chief and worker alone"
        )
    chiefs = cluster.get("chief", 0)
    if chiefs > 1:
        raise OptionError(f"TF_CONFIG names {chiefs} chiefs: there is one")
    if not 0 <= index < cluster.get(kind, 0):
        raise OptionError(f"TF_CONFIG's cluster has no {kind} {index}, which its task says this is")
    if untold and sum(cluster.values()) > 1:
        raise OptionError(
            "TF_CONFIG does not tell which of the workers this is: its task has no "
            f"{' and no '.join(sorted(untold))}"
        )
    return sum(cluster.values()), index + (chiefs if kind == "worker" else 0)


def share_gradients(optimizer: type[Any], workers: Workers) -> type[Any]:
    """A Keras optimizer that applies the mean of all workers' gradients."""
    if workers.count == 1:
        return optimizer

    class Shared(optimizer):  # type: ignore[misc]
        def apply(
            self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None
        ) -> Any:
            # Not the gradients': of a layer that folds time into the batch they are not known
            # before the step.
            variables = trainable_variables or self._trainable_variables
            shapes = [tf.TensorShape(variable.shape) for variable in variables]
            sizes = [shape.num_elements() for shape in shapes]
            flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in grads], 0)
            flat = tf.ensure_shape(flat, [sum(sizes)])
            parts = tf.split(workers.average(flat, _GRADIENTS_KEY), sizes)
            means = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            return super().apply(means, trainable_variables)

    return Shared


class WorkerBatches(keras.utils.PyDataset):  # type: ignore[misc]  # keras ships no types
    """A worker's share of each batch, and the weights that make the mean over workers the batch's.

    A share of n of a batch's N clips has a mean loss of its own n: weighted by n / N times the
    number of workers, the mean over the workers is that of the N. A clip also has its class's
    weight. A worker that gets no clip of a batch smaller than the cluster takes one, with
    weight 0.
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

    Before the validation the moving statistics of batch normalisation, after it the figures; where
    nothing is validated, both after the epoch.
    """

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Average the moving statistics."""
        statistics = [
            weight
            for weight in self.model.non_trainable_weights
            if weight.path.rpartition("/")[2] in _MOVING
        ]
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
            if "val_loss" not in logs:
                self.on_test_begin()
            names = sorted(logs)
            mean = self._average(np.array([logs[name] for name in names]))
            logs.update(zip(names, mean.tolist(), strict=True))

    def _average(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        # In 64 bits, so that the mean of equal values is that value: statistics that nothing moves,
        # of a frozen encoder, stay as they are with three workers too.
        means = self._workers.average(tf.constant(values, tf.float64), _FIGURES_KEY)
        return np.asarray(means.numpy(), np.float64)
