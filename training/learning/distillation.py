"""Distillation: beside the classes, an encoder learns what a pretrained one sees in each frame.

A thousand clips are few for an encoder that begins with nothing. Here it also has to tell, from its
features of a training frame, those of EfficientNet-Lite0 with its ImageNet weights: a hint, as of
A. Romero and others, "FitNets: Hints for Thin Deep Nets", 2015. The teacher sees no label of these
clips and does not learn; the layer that tells its features is no part of the network that is saved,
which has the size, the speed and the layers that it has without.

    features = FrameFeatures(store_features(clips, entries, folder=data, spec=spec, cache=cache))
    learner = Distilled(network, weight=2.0)    # fit() it on ClipBatches(..., features=features)

The teacher looks at whole frames of 192 by 192 pixels before they are augmented, of which the
learner may see a flipped or cropped part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops

from clip import ClipError, ClipSpec, read_clip
from training.data.cache import NPY_HEADER_BYTES, entry_digest, is_whole, write_entry
from training.data.index import Clip
from training.errors import DataError
from training.files import sweep
from training.networks.efficientnet import (
    FEATURES,
    WEIGHTS_SHA256,
    build_encoder,
    load_imagenet_weights,
)
from training.networks.layers import FrameWise
from training.networks.models import FRAME_FEATURES
from training.networks.recipes import RECIPES
from training.progress import Progress

#: Frames that the teacher looks at together.
_TEACHER_BATCH = 20
#: Adam moves every weight of the telling layer by the learning rate. Of thousands that add up the
#: answer would be thrown about; a twentieth of it is not.
_DAMPING = 0.05


def store_features(
    clips: Sequence[Clip],
    entries: Mapping[Clip, Path],
    *,
    folder: Path,
    spec: ClipSpec,
    cache: Path,
) -> list[Path]:
    """Compute the teacher's features of clips that the cache does not have, showing progress.

        <cache>/<16 digits of the spec's fingerprint>-<8 of the weights'>/<sha256 of the file>.npy
            float16 (frames, FEATURES)

    Args:
        clips: of which the features are wanted.
        entries: their cache entries, which know the videos' digests.
        folder: of the videos.
        spec: the frames, whatever their size: the teacher has its own.
        cache: of decoded clips.

    Returns:
        The files, in the order of `clips`.

    Raises:
        WeightsError: the teacher's weights are not installed.
        DataError: a video cannot be decoded.
        OSError: the cache cannot be written; it names the file.
    """
    recipe = RECIPES["lrcn-efficientnet"]
    spec = replace(spec, height=recipe.height, width=recipe.width)
    place = cache / f"{spec.fingerprint[:16]}-{WEIGHTS_SHA256[:8]}"
    place.mkdir(parents=True, exist_ok=True)
    sweep(place)
    files = {clip: place / f"{entry_digest(entries[clip])}.npy" for clip in clips}
    nbytes = spec.frames * FEATURES * np.dtype(np.float16).itemsize
    missing = [clip for clip, file in files.items() if not is_whole(file, nbytes)]
    teacher = build_encoder(spec.height, spec.width)
    load_imagenet_weights(teacher)
    with Progress(total=len(missing), title="features", unit="clips") as progress:
        for clip in missing:
            try:
                frames = read_clip(folder / clip.path, spec)
            except ClipError as error:
                raise DataError(f"{clip.path} cannot be used: {error}") from error
            parts = range(0, len(frames), _TEACHER_BATCH)
            told = [teacher.predict_on_batch(frames[k : k + _TEACHER_BATCH]) for k in parts]
            write_entry(files[clip], np.concatenate(told).astype(np.float16))
            progress.advance(1)
    return list(files.values())


class FrameFeatures(Sequence[npt.NDArray[np.float32]]):
    """Stored features of clips as what a network has to tell: float32 (frames, FEATURES) a clip.

    The mean of each over all frames is taken away, and all are divided by the root of their mean
    variance: a squared error of 1 is that of telling nothing.

    Args:
        files: as store_features() returns them, one or more.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        total, squares, count = np.zeros(FEATURES), 0.0, 0
        for place in range(len(files)):
            of_clip = self._map(place).astype(np.float64)
            total += of_clip.sum(axis=0)
            squares += float((of_clip**2).sum())
            count += len(of_clip)
        mean = total / count
        variance = squares / count / FEATURES - float((mean**2).mean())
        self._mean = mean.astype(np.float32)
        # Frames that are all alike vary by no more than rounding.
        self._scale = np.float32(np.sqrt(max(variance, 1e-6)))

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.float32]: ...

    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[np.float32]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return (self._map(index) - self._mean) / self._scale

    def _map(self, place: int) -> npt.NDArray[np.float16]:
        numbers = np.memmap(self._files[place], np.float16, "r", NPY_HEADER_BYTES)
        return numbers.reshape(-1, FEATURES)


class Distilled(keras.Model):  # type: ignore[misc]  # keras ships no types
    """A network and the layer that tells the teacher's features, to be trained together.

    Its loss is that of the classes plus `weight` times the mean squared error of the features; the
    latter only where the targets are a dictionary with `features` (training.learning.batches), so
    that a validation loss compares with that of a network without a teacher. Accuracy is that of
    the classes.

    Args:
        network: with a layer FRAME_FEATURES; it is trained in place.
        weight: of the features in the loss.
    """

    def __init__(self, network: keras.Model, weight: float) -> None:
        told = FrameWise(layers.Dense(FEATURES), name="told")(
            network.get_layer(FRAME_FEATURES).output
        )
        # float32 also where the rest computes in 16 bits, as the probabilities are.
        told = layers.Rescaling(_DAMPING, dtype="float32", name="features")(told)
        super().__init__(
            inputs=network.inputs,
            outputs={"classes": network.outputs[0], "features": told},
            name=f"{network.name}_distilled",
        )
        self._weight = weight

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Keras calls this in every step, in training and in validation."""
        distils = isinstance(y, dict)
        classes = y["classes"] if distils else y
        loss = super().compute_loss(x, classes, y_pred["classes"], sample_weight, training)
        if not distils:
            return loss
        errors = ops.mean(ops.square(y_pred["features"] - y["features"]), axis=(1, 2))
        if sample_weight is not None:
            errors = errors * sample_weight
        return loss + self._weight * ops.mean(errors)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Keras calls this in every step: the loss, and the accuracy of the classes."""
        classes = y["classes"] if isinstance(y, dict) else y
        metrics: dict[str, Any] = super().compute_metrics(
            x, classes, y_pred["classes"], sample_weight
        )
        return metrics
