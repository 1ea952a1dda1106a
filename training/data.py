"""The index of a data set: a folder of class folders, one video a clip.

    data/
      Archery/v_Archery_g01_c01.avi
      YoYo/v_YoYo_g01_c01.avi

A clip's group names the footage it was cut from: clips of one group look alike and must not stand
on both sides of a split (the UCF authors' own warning). UCF file names tell it (`_g01_`); a table
can tell it better.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_UCF_GROUP = re.compile(r"_(g\d+)_")
_VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm"}
)


class DataError(ValueError):
    """The data set cannot be used as it is; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled video: its path below the data folder, its class and its group."""

    path: str
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """The clips of a data folder, ordered by path, and the classes in output order."""

    folder: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]

    def target(self, clip: Clip) -> int:
        """The clip's class as its place in `classes`."""
        return self.classes.index(clip.label)

    def select(self, paths: Sequence[str]) -> ClipIndex:
        """The index of just these clips, in this order.

        Raises:
            DataError: a path that the index does not have.
        """
        by_path = {clip.path: clip for clip in self.clips}
        missing = [path for path in paths if path not in by_path]
        if missing:
            raise DataError(f"{self.folder} lacks {len(missing)} of these clips, as {missing[0]}")
        return replace(self, clips=tuple(by_path[path] for path in paths))


def index_clips(
    folder: Path, *, classes: Sequence[str] | None = None, groups: Path | None = None
) -> ClipIndex:
    """List the videos below `folder`, a class folder each.

    Args:
        folder: holds one folder for each class.
        classes: the class folders to take, in output order; all of them, by name, if None.
        groups: a tab-separated table with the columns `path` (below `folder`) and `source_group`;
            if None the UCF names tell the group, and a file without such a name is its own.

    Raises:
        DataError: no such folder or class, fewer than two classes, a class without clips, or a clip
        that the
            table of groups does not have.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    # What begins with a dot or an underscore is not a class but somebody's cache or archive litter.
    found = tuple(
        sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith((".", "_"))
        )
    )
    chosen = tuple(classes) if classes else found
    if len(set(chosen)) < len(chosen):
        raise DataError("a class is named twice")
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        raise DataError(f"{folder} has no folder for the classes {', '.join(unknown)}")
    if len(chosen) < 2:
        raise DataError(f"{folder} must hold at least two class folders, it has {len(chosen)}")
    table = _read_groups(groups) if groups else None
    clips = []
    for label in chosen:
        files = sorted(
            file for file in (folder / label).iterdir() if file.suffix.lower() in _VIDEO_SUFFIXES
        )
        if not files:
            raise DataError(f"the class folder {folder / label} holds no video")
        for file in files:
            path = f"{label}/{file.name}"
            clips.append(Clip(path, label, _group_of(path, label, table)))
    return ClipIndex(folder, chosen, tuple(clips))


def _read_groups(table: Path) -> dict[str, str]:
    with table.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if not {"path", "source_group"} <= set(rows.fieldnames or ()):
            raise DataError(f"{table} must have the tab-separated columns path and source_group")
        return {row["path"]: row["source_group"] for row in rows}


def _group_of(path: str, label: str, table: dict[str, str] | None) -> str:
    if table is not None:
        if path not in table:
            raise DataError(f"the table of groups has no row for {path}")
        return table[path]
    match = _UCF_GROUP.search(path)
    # Group numbers start anew in every class.
    return f"{label}_{match[1]}" if match else path
