"""Splitting a data set into training, validation and test clips.

`random` is the paper's protocol: 20 % of the clips for testing, then 20 % of the rest for
validation, stratified by class. Clips cut from one video end up on both sides, so its figures say
how well a network knows footage that it has seen.

`group` takes the same shares, but whole groups: the honest figure for new footage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from training.data import Clip, ClipIndex, DataError

#: One part in FOLDS is held out: 20 %.
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint sets of clips."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]

    @property
    def parts(self) -> Mapping[str, tuple[Clip, ...]]:
        """The sets by their names."""
        return MappingProxyType(
            {"train": self.train, "validation": self.validation, "test": self.test}
        )


def split_clips(index: ClipIndex, *, protocol: str, seed: int) -> Split:
    """Split by one of `PROTOCOLS`; the same index, protocol and seed give the same split.

    Raises:
        DataError: unknown protocol, or a class with too few clips or groups to be in every part.
    """
    try:
        hold_out = PROTOCOLS[protocol]
    except KeyError:
        raise DataError(f"split must be one of {', '.join(PROTOCOLS)}, not {protocol!r}") from None
    try:
        rest, test = hold_out(index.clips, seed)
        train, validation = hold_out(rest, seed)
    except ValueError as error:
        raise DataError(f"the data set is too small for a {protocol} split: {error}") from error
    split = Split(train, validation, test)
    for name, part in split.parts.items():
        lacking = sorted(set(index.classes) - {clip.label for clip in part})
        if lacking:
            raise DataError(
                f"the {protocol} split leaves no {name} clip of {', '.join(lacking)}: "
                f"each class needs at least {FOLDS} {'groups' if protocol == 'group' else 'clips'}"
            )
    return split


Halves = tuple[tuple[Clip, ...], tuple[Clip, ...]]


def _hold_out_clips(clips: Sequence[Clip], seed: int) -> Halves:
    labels = [clip.label for clip in clips]
    rest, held_out = train_test_split(
        list(clips), test_size=1 / FOLDS, random_state=seed, stratify=labels
    )
    return tuple(rest), tuple(held_out)


def _hold_out_groups(clips: Sequence[Clip], seed: int) -> Halves:
    labels = [clip.label for clip in clips]
    groups = [clip.group for clip in clips]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    rest, held_out = next(folds.split(np.zeros(len(clips)), labels, groups))
    return tuple(clips[i] for i in rest), tuple(clips[i] for i in held_out)


PROTOCOLS: Mapping[str, Callable[[Sequence[Clip], int], Halves]] = MappingProxyType(
    {"random": _hold_out_clips, "group": _hold_out_groups}
)
