"""The index of a data set: a folder of class folders, one video a clip.

    data/
      Archery/v_Archery_g01_c01.avi
      YoYo/v_YoYo_g01_c01.avi

    python -m training.data data/          prints it, with durations and bad files

A clip's group names the footage it was cut from: clips of one group look alike and must not stand
on both sides of a split (the UCF authors' own warning). UCF file names tell it (`_g01_`); a table
can tell it better.

A file counts as a clip if its suffix is that of a video or its first bytes are those of a container
that `clip` reads. The others are listed in `ClipIndex.ignored`, except hidden ones (".name").
Whether a clip decodes is for `training.data.cache` to find out.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clip import ClipError
from clip.sniff import SNIFF_BYTES, sniff
from training.errors import DataError, OptionError

#: The classes taken from a folder that has them all, unless others are chosen. The paper trains on
#: ten of UCF50's fifty. Which ten could not be established when this was written, so these are a
#: choice: the four that public implementations of the two networks commonly train on, then the
#: first six by name. To compare with the paper's table class for class, pass its list as --classes.
PAPER_CLASSES = (
    "WalkingWithDog",
    "TaiChi",
    "Swing",
    "HorseRace",
    "BaseballPitch",
    "Basketball",
    "BenchPress",
    "Biking",
    "Billiards",
    "BreastStroke",
)

_UCF_GROUP = re.compile(r"_(g\d+)_")
#: Names that promise a video. `clip` does not read all of these containers: a file of one that it
#: does not read is then listed as bad instead of being ignored.
_VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


_REASONS = {
    "missing": "The link leads nowhere.",
    # A run keeps its clips' names in tables of UTF-8.
    "misnamed": "Its name has control characters or is not UTF-8: rename it.",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled video: its path below the data folder, its class and its group."""

    path: str
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be trained on: its path below the data folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClipIndex:
    """The clips of a data folder and the classes in output order.

    Attributes:
        folder: holds the class folders.
        classes: the class folders taken.
        clips: ordered by class, then by path.
        missing: files that should be there and are not: rows of the table of groups without a file,
            and links to nowhere.
        ignored: paths in the class folders that are no videos.
        warnings: sentences that a person should read before trusting the groups or the classes.
    """

    folder: Path
    classes: tuple[str, ...]
    clips: tuple[Clip, ...]
    missing: tuple[BadFile, ...] = ()
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

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

    def without(self, paths: Sequence[str]) -> ClipIndex:
        """The index less these clips.

        Raises:
            DataError: a class is left without clips.
        """
        dropped = set(paths)
        clips = tuple(clip for clip in self.clips if clip.path not in dropped)
        empty = [label for label in self.classes if label not in {clip.label for clip in clips}]
        if empty:
            raise DataError(
                f"no usable clip is left of {', '.join(empty)}: choose the others with --classes"
            )
        return replace(self, clips=clips)


def index_clips(
    folder: Path, *, classes: Sequence[str] | None = None, groups: Path | None = None
) -> ClipIndex:
    """List the videos below `folder`, a class folder each.

    Args:
        folder: holds one folder for each class.
        classes: the class folders to take, in output order. If None, PAPER_CLASSES where all ten
            are there, else all of them, by name.
        groups: a tab-separated table with the columns `path` (below `folder`) and `source_group`;
            if None the UCF names tell the group, and a file without such a name is its own.

    Raises:
        OptionError: no such class, or no such table.
        DataError: no such folder, fewer than two classes, classes without clips, or clips that the
            table of groups does not have.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = _find_classes(folder)
    warnings: list[str] = []
    if classes:
        _check_choice(folder, classes, found)
    elif len(found) < 2:
        raise DataError(f"{folder} must hold at least two class folders, it has {len(found)}")
    chosen = tuple(classes) if classes else _default_classes(folder, found, warnings)
    paths: dict[str, list[str]] = {label: [] for label in chosen}
    ignored: list[str] = []
    missing: list[BadFile] = []
    for label in chosen:
        for path, kind in _look_through(folder, label):
            if kind == "clip":
                paths[label].append(path)
            elif kind == "ignored":
                ignored.append(path)
            else:
                missing.append(BadFile(path, _REASONS[kind]))
    empty = [str(folder / label) for label, files in paths.items() if not files]
    if empty:
        raise DataError(
            f"no video in {', '.join(empty)}: an empty class folder holds no video to learn from; "
            "choose the others with --classes"
        )
    table = _read_groups(groups) if groups else None
    if table is not None:
        missing += _rows_without_file(table, paths, missing)
    clips = _grouped(paths, table, groups)
    own = sum(clip.group == clip.path for clip in clips) if table is None else 0
    if own:
        warnings.append(
            f"{own} of {len(clips)} clips have no group in their names: each counts as its own "
            "group, and clips cut from one video can end up on both sides of a split; a table of "
            "groups (--groups) prevents that"
        )
    return ClipIndex(folder, chosen, clips, tuple(missing), tuple(ignored), tuple(warnings))


def read_table(table: Path, key: str, value: str) -> list[tuple[str, str]]:
    """Two columns of a table of tab-separated values, in UTF-8, whose first row names them.

    Raises:
        DataError: it has not these columns, or is no such table.
        OSError: it cannot be read.
    """
    try:
        # Spreadsheets put a byte order mark before the first column's name.
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t")
            if not {key, value} <= set(rows.fieldnames or ()):
                raise DataError(f"{table} must have the tab-separated columns {key} and {value}")
            pairs = [(row[key] or "", row[value] or "") for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is no table of tab-separated text: {error}") from error
    for pair in pairs:
        if _has_control_characters("".join(pair)):
            raise DataError(f"{table} has a cell with control characters: {pair}")
    return pairs


def _read_groups(table: Path) -> dict[str, str]:
    if not table.is_file():
        raise OptionError(f"the table of groups, {table}, is not a file")
    groups: dict[str, str] = {}
    for path, group in read_table(table, "path", "source_group"):
        if groups.setdefault(path, group) != group:
            raise DataError(f"{table} has {path} in two groups: {groups[path]} and {group}")
    return groups


def find_duplicates(digests: Mapping[Clip, str]) -> list[BadFile]:
    """Name the clips whose bytes another clip has already.

    Args:
        digests: the sha256 of every clip's file, in the index's order.

    Returns:
        Within a class all copies but the first; of copies in several classes every one, for none
        of their labels can be trusted.
    """
    copies: dict[str, list[Clip]] = {}
    for clip, digest in digests.items():
        copies.setdefault(digest, []).append(clip)
    bad = []
    for first, *others in copies.values():
        labels = {clip.label for clip in (first, *others)}
        if len(labels) > 1:
            for clip in (first, *others):
                twin = next(other for other in (first, *others) if other.label != clip.label)
                bad.append(BadFile(clip.path, f"The same bytes as {twin.path}, of another class."))
        else:
            bad += [BadFile(clip.path, f"The same bytes as {first.path}.") for clip in others]
    return bad


def _find_classes(folder: Path) -> tuple[str, ...]:
    # What begins with a dot or an underscore is not a class but somebody's cache or archive litter.
    found = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "_"))
    )
    for name in found:
        if _has_control_characters(name):
            raise DataError(f"{folder} has a folder {_readable(name)}: {_REASONS['misnamed']}")
    return tuple(found)


def _check_choice(folder: Path, chosen: Sequence[str], found: Sequence[str]) -> None:
    """Refuse classes named by the user that are no choice among those found."""
    if len(set(chosen)) < len(chosen):
        raise OptionError("a class is named twice")
    unknown = sorted(set(chosen) - set(found))
    if unknown:
        raise OptionError(f"{folder} has no folder for the classes {', '.join(unknown)}")
    if len(chosen) < 2:
        raise OptionError(f"--classes must name at least two classes, not {chosen[0]} alone")


def _default_classes(folder: Path, found: tuple[str, ...], warnings: list[str]) -> tuple[str, ...]:
    if not set(PAPER_CLASSES) <= set(found):
        return found
    if len(found) > len(PAPER_CLASSES):
        warnings.append(
            f"{folder} has {len(found)} class folders, the default ten are taken "
            f"({', '.join(PAPER_CLASSES)}): choose others with --classes"
        )
    return PAPER_CLASSES


def _look_through(folder: Path, label: str) -> Iterator[tuple[str, str]]:
    """Each (path below the data folder, a word of `_REASONS`, "clip" or "ignored") of a class."""
    for entry in sorted((folder / label).iterdir()):
        if entry.name.startswith("."):
            continue
        path = f"{label}/{entry.name}"
        if _has_control_characters(entry.name):
            yield _readable(path), "misnamed"
        elif entry.is_symlink() and not entry.exists():
            yield path, "missing"
        elif entry.is_file() and (entry.suffix.lower() in _VIDEO_SUFFIXES or _is_video(entry)):
            yield path, "clip"
        else:
            yield path, "ignored"


def _has_control_characters(name: str) -> bool:
    # "Cs": what Python makes of bytes that are not UTF-8.
    return any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)


def _readable(name: str) -> str:
    return "".join(
        character.encode("unicode_escape").decode()
        if _has_control_characters(character)
        else character
        for character in name
    )


def _is_video(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            sniff(opened.read(SNIFF_BYTES))
    except (ClipError, OSError):
        return False
    return True


def _rows_without_file(
    table: Mapping[str, str], paths: Mapping[str, Sequence[str]], known: Sequence[BadFile]
) -> list[BadFile]:
    there = {path for files in paths.values() for path in files} | {bad.path for bad in known}
    return [
        BadFile(path, "The table of groups has it, the folder does not.")
        for path in table
        if path.split("/", 1)[0] in paths and path not in there
    ]


def _grouped(
    paths: Mapping[str, Sequence[str]], table: Mapping[str, str] | None, source: Path | None
) -> tuple[Clip, ...]:
    clips = []
    lacking = []
    for label, files in paths.items():
        for path in files:
            if table is None:
                # The file's name alone: a class may be named walk_g1_slow.
                match = _UCF_GROUP.search(path.rpartition("/")[2])
                # Group numbers start anew in every class.
                clips.append(Clip(path, label, f"{label}_{match[1]}" if match else path))
            elif table.get(path):
                clips.append(Clip(path, label, table[path]))
            else:
                lacking.append(path)
    if lacking:
        listed = "\n  ".join(lacking)
        raise DataError(f"{source} has no row for {len(lacking)} clips:\n  {listed}")
    return tuple(clips)
