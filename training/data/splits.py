"""Splitting a data set into training, validation and test clips.

`random` is the paper's protocol: 20 % of the clips for testing, then 20 % of the rest for
validation, stratified by class. Clips cut from one video end up on both sides, so its figures say
how well a network knows footage that it has seen.

`group` takes the same shares, as nearly as whole groups allow: the honest figure for new footage.
Its validation clips are one of five folds of those that are not for testing.

`file` takes the parts that a table names, for published splits and for comparing runs on the same
clips. A run's own split.tsv is such a table (a refit's is not: it has no validation clips).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from warnings import catch_warnings, filterwarnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from training.data.index import Clip, ClipIndex, read_table
from training.errors import DataError, OptionError

#: One part in FOLDS is held out: 20 %.
FOLDS = 5
#: A class of which less, or more, is held out for testing is warned of.
SHARES = (0.1, 0.4)
#: A class of which a smaller share is left for training, usually 64 %, is warned of.
LEAST_TRAINED = 0.4

PROTOCOLS = ("group", "random", "file")
PARTS = ("train", "validation", "test")
#: What a class that a split leaves out of a part lacks.
NEEDED = {
    "group": "more groups, or groups of like sizes (7 will do)",
    "random": "more clips (6 will do)",
    "file": "one clip in each part",
}


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint sets of clips, and sentences that a person should read before trusting it."""

    train: tuple[Clip, ...]
    validation: tuple[Clip, ...]
    test: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> Mapping[str, tuple[Clip, ...]]:
        """The sets by their names."""
        return MappingProxyType(
            {"train": self.train, "validation": self.validation, "test": self.test}
        )


def split_clips(
    index: ClipIndex, *, protocol: str, seed: int, fold: int = 0, table: Path | None = None
) -> Split:
    """Split by one of `PROTOCOLS`; the same index and the same arguments give the same split.

    Args:
        index: the clips to split.
        protocol: "random", "group" or "file".
        seed: of the random and group splits.
        fold: for "group": which of the FOLDS folds of the clips that are not for testing is for
            validation, from 0. The test clips are the same for all.
        table: for "file" alone: see read_split().

    Raises:
        OptionError: see check_protocol().
        DataError: a class with too few clips or groups to be in every part, or a
            table that cannot be followed.
    """
    check_protocol(protocol, table, fold)
    split = read_split(index, table) if table else _hold_out(index, protocol, seed, fold)
    split = replace(split, warnings=(*split.warnings, *warn_of_split(index, protocol, split)))
    for name, part in split.parts.items():
        lacking = sorted(set(index.classes) - {clip.label for clip in part})
        if lacking:
            raise DataError(
                f"the {protocol} split leaves no {name} clip of {', '.join(lacking)}: "
                f"each class needs {NEEDED[protocol]}"
            )
    return split


def check_protocol(protocol: str, table: Path | None, fold: int = 0) -> None:
    """Refuse what `split_clips` cannot follow, before its clips are known.

    Raises:
        OptionError: no such protocol, one that wants a table or wants none, no such table, no such
            fold, or a protocol that has none.
    """
    if protocol not in PROTOCOLS:
        raise OptionError(f"split must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    if (protocol == "file") != (table is not None):
        raise OptionError(
            "a table of parts (--split-file) goes with --split file, and only with it"
        )
    if table is not None and not table.is_file():
        raise OptionError(f"--split-file {table} is not a file")
    if not 0 <= fold < FOLDS:
        raise OptionError(f"--fold must be 0 to {FOLDS - 1}")
    if fold and protocol != "group":
        raise OptionError("--fold goes with --split group, and only with it")


def read_split(index: ClipIndex, table: Path) -> Split:
    """Split as a table says.

    Args:
        index: the clips to split; those that the table does not name are left out, with a warning.
        table: tab-separated, with the columns `path` (below the data folder) and `part` (train,
            validation or test); others are ignored.

    Raises:
        DataError: not such a table, a clip in two parts or named twice, or one that is not in the
            index.
    """
    rows = _read_rows(table)
    there = {clip.path for clip in index.clips}
    parts: dict[str, set[str]] = {}
    for path, part in rows:
        parts.setdefault(path, set()).add(part)
    leaks = _in_several(parts)
    twice = [path for (path, _), count in Counter(rows).items() if count > 1]
    unknown = [path for path in parts if path not in there]
    for message, found in (
        ("puts clips in two parts, so that they would be tested on what they taught", leaks),
        ("names clips twice", twice),
        (f"names clips that {index.folder} does not have (or that cannot be used)", unknown),
    ):
        if found:
            raise DataError(f"{table} {message}:{_listed(found)}")
    by_part: dict[str, list[Clip]] = {part: [] for part in PARTS}
    places = {path: place for place, (path, _) in enumerate(rows)}
    named = [clip for clip in index.clips if clip.path in parts]
    for clip in sorted(named, key=lambda clip: places[clip.path]):
        by_part[next(iter(parts[clip.path]))].append(clip)
    warnings = []
    if len(named) < len(index.clips):
        left = len(index.clips) - len(named)
        warnings.append(f"{table} does not name {left} of {len(index.clips)} clips: left out")
    train, validation, test = (tuple(by_part[part]) for part in PARTS)
    return Split(train, validation, test, tuple(warnings))


def _read_rows(table: Path) -> list[tuple[str, str]]:
    read = read_table(table, "path", "part")
    odd = sorted({part for _, part in read} - set(PARTS))
    if odd:
        raise DataError(
            f"{table}: part must be {', '.join(PARTS)}, not {', '.join(map(repr, odd))}"
        )
    return read


def warn_of_split(index: ClipIndex, protocol: str, split: Split) -> tuple[str, ...]:
    """What a person should read before trusting the figures of a split of these clips."""
    if protocol == "group":
        return _warn_of_odd_shares(index, split)
    # Of the random split nobody expects anything else, and stratified by clips the shares are what
    # they can be.
    straddling = _straddling(split.parts) if protocol == "file" else []
    if not straddling:
        return ()
    return (
        f"{len(straddling)} groups are in more than one part: the figures will be too good for new "
        f"footage:{_listed(straddling)}",
    )


def _straddling(by_part: Mapping[str, Sequence[Clip]]) -> list[str]:
    parts: dict[str, set[str]] = {}
    for part, clips in by_part.items():
        for clip in clips:
            parts.setdefault(clip.group, set()).add(part)
    return _in_several(parts)


def _in_several(parts: Mapping[str, set[str]]) -> list[str]:
    return [f"{name} is in {' and '.join(sorted(of))}" for name, of in parts.items() if len(of) > 1]


def _listed(lines: Sequence[str], most: int = 20) -> str:
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in (*lines[:most], *more))


Halves = tuple[tuple[Clip, ...], tuple[Clip, ...]]


def _hold_out(index: ClipIndex, protocol: str, seed: int, fold: int) -> Split:
    try:
        if protocol == "group":
            rest, test = _fold_groups(index.clips, seed)[0]
            train, validation = _fold_groups(rest, seed)[fold]
        else:
            rest, test = _hold_out_clips(index.clips, seed)
            train, validation = _hold_out_clips(rest, seed)
    except ValueError as error:
        # In scikit-learn's words n_splits or y are what is wrong.
        raise DataError(
            f"the data set is too small for a {protocol} split: each class needs {NEEDED[protocol]}"
        ) from error
    return Split(train, validation, test)


def _warn_of_odd_shares(index: ClipIndex, split: Split) -> tuple[str, ...]:
    """Which classes are hardly tested, or hardly trained, because whole groups would not fit."""
    clips, trained, tested = (
        Counter(clip.label for clip in of) for of in (index.clips, split.train, split.test)
    )
    least, most = SHARES
    odd = [
        f"{label}: {tested[label]} of {clips[label]}"
        for label in index.classes
        if not least * clips[label] <= tested[label] <= most * clips[label]
    ]
    thin = [
        f"{label}: {trained[label]} of {clips[label]}"
        for label in index.classes
        if trained[label] < LEAST_TRAINED * clips[label]
    ]
    why = "the groups are of such different sizes that of some classes "
    warnings = []
    if odd:
        warnings.append(
            f"{why}far from a fifth of the clips is held out for testing: {', '.join(odd)}"
        )
    if thin:
        warnings.append(f"{why}hardly two fifths of the clips are trained on: {', '.join(thin)}")
    return tuple(warnings)


def _hold_out_clips(clips: Sequence[Clip], seed: int) -> Halves:
    labels = [clip.label for clip in clips]
    rest, held_out = train_test_split(
        list(clips), test_size=1 / FOLDS, random_state=seed, stratify=labels
    )
    return tuple(rest), tuple(held_out)


def _fold_groups(clips: Sequence[Clip], seed: int) -> list[Halves]:
    """The FOLDS ways to hold out a fifth, first those that leave each class in both halves."""
    labels = [clip.label for clip in clips]
    groups = [clip.group for clip in clips]
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with catch_warnings():
        # Of a class with fewer clips than folds; what comes of that is looked at afterwards.
        filterwarnings("ignore", "The least populated class", UserWarning)
        halves = [
            (tuple(clips[i] for i in rest), tuple(clips[i] for i in held_out))
            for rest, held_out in folds.split(np.zeros(len(clips)), labels, groups)
        ]
    # With groups of very different sizes the first fold may lack a class that another one has.
    return sorted(
        halves, key=lambda pair: any({clip.label for clip in half} != set(labels) for half in pair)
    )
