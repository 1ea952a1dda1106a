"""Batches of decoded clips for training, augmented, and for evaluation, as they are."""

from __future__ import annotations

from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt

#: Augmentation by chance for each clip; all frames of a clip are changed alike.
FLIP_PROBABILITY = 0.5
LEAST_CROP = 0.75
BRIGHTNESS = 25.0
CONTRAST = 0.2


class ClipBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Shuffled, augmented batches: uint8 (N, frames, height, width, 3) and one-hot (N, classes).

    What an epoch holds depends on the seed and the epoch's number alone, not on how many threads
    make its batches.
    """

    def __init__(
        self,
        clips: npt.NDArray[np.uint8],
        targets: npt.NDArray[np.float32],
        *,
        batch_size: int,
        seed: int,
        augment: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._clips = clips
        self._targets = targets
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._epoch = 0
        self._order = self._shuffled()

    def __len__(self) -> int:
        return -(-len(self._clips) // self._batch_size)

    def __getitem__(self, batch: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        chosen = self._order[batch * self._batch_size : (batch + 1) * self._batch_size]
        clips = self._clips[chosen]
        if self._augment:
            rng = np.random.default_rng((self._seed, self._epoch, batch))
            clips = np.stack([augment_clip(clip, rng) for clip in clips])
        return clips, self._targets[chosen]

    def on_epoch_end(self) -> None:
        """Keras calls this after each epoch: the next one has another order and other changes."""
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> npt.NDArray[np.intp]:
        return np.random.default_rng((self._seed, self._epoch)).permutation(len(self._clips))


def augment_clip(clip: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Flip, crop, and change brightness and contrast of a clip, the same way in all its frames."""
    frames, height, width, _ = clip.shape
    if rng.random() < FLIP_PROBABILITY:
        clip = clip[:, :, ::-1]
    crop_height = round(height * rng.uniform(LEAST_CROP, 1.0))
    crop_width = round(width * rng.uniform(LEAST_CROP, 1.0))
    top = int(rng.integers(0, height - crop_height + 1))
    left = int(rng.integers(0, width - crop_width + 1))
    cropped = clip[:, top : top + crop_height, left : left + crop_width]
    resized = np.empty(clip.shape, np.uint8)
    for index in range(frames):
        cv2.resize(
            np.ascontiguousarray(cropped[index]),
            (width, height),
            dst=resized[index],
            interpolation=cv2.INTER_LINEAR,
        )
    contrast = 1 + rng.uniform(-CONTRAST, CONTRAST)
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) + 127.5 * (1 - contrast)
    levels = np.clip(np.arange(256) * contrast + brightness, 0, 255).astype(np.uint8)
    return np.asarray(levels[resized])
