"""What is in a data folder: python -m training.data DIR [--groups FILE] [--classes A B] [--json].

Decodes every file once, on all cores; about 10 ms a clip of UCF's size on each. The exit status is
1 if there are bad files or none to train on, so that a script can ask.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2

from clip import ClipError, ClipSpec, sample_clip
from training.arguments import command_parser
from training.data.digests import file_digest
from training.data.index import BadFile, Clip, ClipIndex, find_duplicates, index_clips
from training.errors import DataError
from training.progress import Progress


@dataclass(frozen=True, slots=True)
class Listing:
    """An index with what is known only after decoding.

    Attributes:
        index: as index_clips() gives it.
        durations_s: seconds of each clip that decodes.
        bad: missing, broken and duplicate files.
    """

    index: ClipIndex
    durations_s: Mapping[Clip, float]
    bad: tuple[BadFile, ...]

    def record(self) -> dict[str, Any]:
        """The listing as JSON values."""
        return {
            "folder": str(self.index.folder),
            "classes": [self._class_record(label) for label in self.index.classes],
            "clips": len(self.index.clips),
            "groups": len({clip.group for clip in self.index.clips}),
            "duration_s": round(sum(self.durations_s.values()), 2),
            "bad": [asdict(file) for file in self.bad],
            "ignored": list(self.index.ignored),
            "warnings": list(self.index.warnings),
        }

    def _class_record(self, label: str) -> dict[str, Any]:
        clips = [clip for clip in self.index.clips if clip.label == label]
        seconds = [self.durations_s[clip] for clip in clips if clip in self.durations_s]
        return {
            "class": label,
            "clips": len(clips),
            "groups": len({clip.group for clip in clips}),
            "duration_s": round(sum(seconds), 2),
            "shortest_s": round(min(seconds, default=0.0), 2),
            "longest_s": round(max(seconds, default=0.0), 2),
        }


def list_clips(index: ClipIndex) -> Listing:
    """Decode every clip of an index to learn its duration and whether it can be used."""

    def measure(clip: Clip) -> tuple[float, str] | str:
        video = index.folder / clip.path
        try:
            return sample_clip(video, ClipSpec()).info.duration_s, file_digest(video)
        except OSError as error:
            return error.strerror or str(error)
        except ClipError as error:
            return str(error)

    cv2.setNumThreads(1)  # the threads below take up the cores
    durations: dict[Clip, float] = {}
    digests: dict[Clip, str] = {}
    broken: list[BadFile] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(total=len(index.clips), title="reading", unit="clips") as progress,
    ):
        for clip, measured in zip(index.clips, pool.map(measure, index.clips), strict=True):
            if isinstance(measured, str):
                broken.append(BadFile(clip.path, measured))
            else:
                durations[clip], digests[clip] = measured
            progress.advance(1)
    return Listing(index, durations, (*index.missing, *broken, *find_duplicates(digests)))


def write_table(record: Mapping[str, Any]) -> str:
    """The listing for a person."""
    rows = [
        ("class", "clips", "groups", "seconds", "shortest", "longest"),
        *(
            (
                row["class"],
                f"{row['clips']}",
                f"{row['groups']}",
                f"{row['duration_s']:.0f}",
                f"{row['shortest_s']:.1f}",
                f"{row['longest_s']:.1f}",
            )
            for row in record["classes"]
        ),
        ("all", f"{record['clips']}", f"{record['groups']}", f"{record['duration_s']:.0f}", "", ""),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
    for title, files in (
        ("bad files", [f"{file['path']}: {file['reason']}" for file in record["bad"]]),
        ("no videos, ignored", record["ignored"]),
    ):
        if files:
            lines += ["", f"{title}: {len(files)}", *(f"  {file}" for file in files)]
    lines += [f"\nwarning: {warning}" for warning in record["warnings"]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the index of a data folder; 1 if it has bad files or is no data set."""
    parser = command_parser(
        "data",
        "List a folder of class folders: classes, clips, groups, durations, bad files.",
    )
    parser.add_argument("folder", type=Path, help="folder of class folders")
    parser.add_argument(
        "--classes", nargs="+", metavar="CLASS", help="class folders to list (default: as in fit)"
    )
    parser.add_argument(
        "--groups", type=Path, metavar="FILE", help="TSV with the columns path and source_group"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        index = index_clips(options.folder, classes=options.classes, groups=options.groups)
        record = list_clips(index).record()
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(record, indent=2) if options.json else write_table(record))
    return 1 if record["bad"] else 0
