"""Augmentation: what chance changes in a training clip, so that no two epochs show it alike.

All frames of a clip are changed alike, but for the temporal jitter, which chooses each frame anew
within its part of the clip.

The sampler (clip.sampling) takes the frame at the middle of each of `frames` equal parts. Decoded
with k times as many frames, k odd, a part holds k candidates, and the middle one of them is the
frame that the plain spec takes: frame floor((2 (k i + (k - 1) / 2) + 1) n / (2 k frames)) of n is
frame floor((2 i + 1) n / (2 frames)). Jitter chooses one of the k; evaluation and serving take the
middle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from clip import ClipSpec
from clip.spec import MAX_FRAMES
from training.errors import OptionError


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much a clip may be changed; written to a run's config.json.

    Attributes:
        jitter: candidate frames for each part of the clip, odd; 1 is no jitter.
        flip: mirror a clip, left to right, with the probability of one half.
        no_flip_classes: classes that a mirror would change into something else.
        least_crop: the least share of height and width that stays; 1 is no crop.
        brightness: the most that is added or taken away, in grey levels; 0 is none.
        contrast: the most by which the distance from middle grey changes, as a share; 0 is none.

    Raises:
        OptionError: a value out of its range.
    """

    jitter: int = 3
    flip: bool = True
    no_flip_classes: tuple[str, ...] = ()
    least_crop: float = 0.75
    brightness: float = 25.0
    contrast: float = 0.2

    def __post_init__(self) -> None:
        if self.jitter < 1 or self.jitter % 2 == 0:
            raise OptionError(f"jitter must be an odd number of frames, not {self.jitter}")
        for name, value, least, most in (
            ("least crop", self.least_crop, 0.1, 1.0),
            ("brightness", self.brightness, 0.0, 255.0),
            ("contrast", self.contrast, 0.0, 1.0),
        ):
            if not least <= value <= most:
                raise OptionError(f"{name} must be from {least} to {most}, not {value}")

    def training_spec(self, spec: ClipSpec) -> ClipSpec:
        """The spec to decode training clips by: `jitter` candidates for each frame of `spec`.

        Raises:
            OptionError: more frames than a spec may have.
        """
        if spec.frames * self.jitter > MAX_FRAMES:
            raise OptionError(
                f"a jitter of {self.jitter} wants {spec.frames * self.jitter} frames of each clip; "
                f"at most {MAX_FRAMES} are possible"
            )
        return replace(spec, frames=spec.frames * self.jitter)

    def apply(
        self, clip: npt.NDArray[np.uint8], rng: np.random.Generator, *, flip: bool
    ) -> npt.NDArray[np.uint8]:
        """Change a clip by chance.

        Args:
            clip: uint8 (frames * jitter, height, width, 3).
            rng: what decides.
            flip: whether this clip's class may be mirrored.

        Returns:
            uint8 (frames, height, width, 3).
        """
        # Each is drawn whether or not it is used: switching one off leaves the others as they were.
        picks = (rng.random(len(clip) // self.jitter) * self.jitter).astype(np.intp)
        mirrored = rng.random() < 0.5
        shares, places = rng.uniform(self.least_crop, 1.0, 2), rng.random(2)
        contrast = 1 + rng.uniform(-1, 1) * self.contrast
        brightness = rng.uniform(-1, 1) * self.brightness
        chosen: npt.NDArray[np.uint8] = clip[np.arange(len(picks)) * self.jitter + picks]
        if self.flip and flip and mirrored:
            chosen = chosen[:, :, ::-1]
        if self.least_crop < 1:
            chosen = _crop(chosen, shares, places)
        if self.brightness or self.contrast:
            levels = np.arange(256) * contrast + brightness + 127.5 * (1 - contrast)
            chosen = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[chosen]
        return np.ascontiguousarray(chosen)


#: Clips as evaluation and serving see them.
NO_AUGMENTATION = Augmentation(jitter=1, flip=False, least_crop=1.0, brightness=0.0, contrast=0.0)


def add_augmentation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what changes the training clips by chance."""
    defaults = Augmentation()
    group = parser.add_argument_group("augmentation")
    group.add_argument("--no-augment", action="store_true", help="train on the clips as they are")
    group.add_argument(
        "--jitter",
        metavar="K",
        type=int,
        default=defaults.jitter,
        help="candidate frames for each sampled one, odd; 1 is no jitter",
    )
    group.add_argument("--no-flip", action="store_true", help="mirror no clip")
    group.add_argument(
        "--no-flip-classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes that a mirror would change into something else",
    )
    group.add_argument(
        "--least-crop",
        metavar="SHARE",
        type=float,
        default=defaults.least_crop,
        help="least share of height and width that a crop leaves; 1 is no crop",
    )
    group.add_argument(
        "--brightness",
        metavar="LEVELS",
        type=float,
        default=defaults.brightness,
        help="most that is added or taken away, in grey levels of 255",
    )
    group.add_argument(
        "--contrast",
        metavar="SHARE",
        type=float,
        default=defaults.contrast,
        help="most change, as a share of 1",
    )


def read_augmentation(arguments: argparse.Namespace) -> Augmentation:
    """The augmentation that the command line asks for.

    Raises:
        OptionError: it cannot be; also where --no-augment switches it off.
    """
    asked = Augmentation(
        jitter=arguments.jitter,
        flip=not arguments.no_flip,
        no_flip_classes=tuple(arguments.no_flip_classes),
        least_crop=arguments.least_crop,
        brightness=arguments.brightness,
        contrast=arguments.contrast,
    )
    if not arguments.no_augment:
        return asked
    # The classes are kept: a name that is not there is refused whatever is done to the clips.
    return replace(NO_AUGMENTATION, no_flip_classes=asked.no_flip_classes)


def mirror_sensitive(augmentation: Augmentation, classes: Sequence[str]) -> tuple[int, ...]:
    """The places in `classes` of those that must not be flipped.

    Raises:
        OptionError: one that is not in `classes`.
    """
    unknown = sorted(set(augmentation.no_flip_classes) - set(classes))
    if unknown:
        raise OptionError(f"there is no class {', '.join(unknown)} to be left unflipped")
    return tuple(classes.index(label) for label in augmentation.no_flip_classes)


def _crop(
    clip: npt.NDArray[np.uint8], shares: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Cut out a window, the same in all frames, and enlarge it to the frames' size."""
    height, width = clip.shape[1:3]
    rows, columns = round(height * shares[0]), round(width * shares[1])
    top = round((height - rows) * places[0])
    left = round((width - columns) * places[1])
    enlarged = np.empty(clip.shape, np.uint8)
    for frame, target in zip(clip, enlarged, strict=True):
        window = np.ascontiguousarray(frame[top : top + rows, left : left + columns])
        cv2.resize(window, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return enlarged
