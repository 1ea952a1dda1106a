"""Batches of decoded clips for training, shuffled and augmented."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from training.learning.augment import Augmentation

#: Threads that make the batches of a training. One is not enough: deterministic TensorFlow does not
#: prefetch, and the step would wait for every batch.
MAKERS = 2


class ClipBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Shuffled, augmented batches: uint8 (N, frames, height, width, 3) and one-hot (N, classes).

    What an epoch holds depends on the seed and the epoch's number alone: not on how many threads
    make its batches, on the order in which they do, nor on the epochs before. In model.fit() the
    callback FollowEpochs says the number, so that a run that goes on with `initial_epoch=k` gets
    what it would have got.

    Args:
        clips: uint8 tensors (frames * augmentation.jitter, height, width, 3); an array of them, or
            training.data.cache.StoredClips, which stay on disk until they are wanted.
        targets: float32 (N, classes), one-hot.
        batch_size: most clips a batch. An epoch's batches differ by one clip at most: what is left
            over after full ones may be a single clip, whose step would go as far as theirs.
        seed: of order and augmentation.
        augmentation: what is changed by chance.
        mirror_sensitive: places of the classes whose clips are never flipped.
        options: of keras.utils.PyDataset: `workers`, `max_queue_size`.
    """

    def __init__(
        self,
        clips: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
        targets: npt.NDArray[np.float32],
        *,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        mirror_sensitive: Collection[int] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._clips = clips
        self._targets = targets
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation
        self._flip = ~np.isin(targets.argmax(axis=1), list(mirror_sensitive))
        self.go_to_epoch(0)

    def __len__(self) -> int:
        return -(-len(self._clips) // self._batch_size)

    def __getitem__(self, batch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        chosen = self.places(batch)
        clips = [
            self._augmentation.apply(
                self._clips[place],
                # From 1: a last 0 would change nothing, and draw what the order was drawn from.
                np.random.default_rng((self._seed, self._epoch, place + 1)),
                flip=bool(self._flip[place]),
            )
            for place in chosen.tolist()
        ]
        return np.stack(clips), self._targets[chosen]

    def go_to_epoch(self, epoch: int) -> None:
        """Make the batches of this epoch from now on, counted from 0."""
        self._epoch = epoch
        self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._clips))

    def places(self, batch: int) -> npt.NDArray[np.intp]:
        """Which clips a batch of the current epoch holds, as their places in `clips`."""
        first, end = (k * len(self._order) // len(self) for k in (batch, batch + 1))
        return self._order[first:end]


class OrderedBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of clips as they are and in their order, to measure a network by.

    Args:
        clips: uint8 tensors (frames, height, width, 3); an array of them, or
            training.data.cache.StoredClips, of which no more than a batch is in memory.
        batch_size: clips a batch; the last may be smaller.
        targets: float32 (N, classes), one-hot; none where answers alone are wanted.
    """

    def __init__(
        self,
        clips: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
        *,
        batch_size: int,
        targets: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self._clips = clips
        self._targets = targets
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._clips) // self._batch_size)

    def __getitem__(self, batch: int) -> tuple[npt.NDArray[Any], ...]:
        chosen = slice(batch * self._batch_size, (batch + 1) * self._batch_size)
        clips = np.stack(list(self._clips[chosen]))
        return (clips,) if self._targets is None else (clips, self._targets[chosen])


class FollowEpochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps batches at the epoch that model.fit() is in.

    Counting the calls of PyDataset.on_epoch_end() would not do: Keras makes one before the first
    epoch, and what else it makes depends on whether the model is built and how it is distributed.
    """

    def __init__(self, batches: ClipBatches) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Keras calls this before it asks for the epoch's first batch."""
        self._batches.go_to_epoch(epoch)
