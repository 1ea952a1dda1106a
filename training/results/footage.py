"""What a run's split lets one say about footage that its network has not seen.

A group of clips is one piece of footage, if the groups are known: by a table (--groups) or by UCF
names. Where they are not, a split by groups is a random one by another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from training.data.splits import PARTS

if TYPE_CHECKING:  # a card needs the words alone, and neither Keras nor TensorFlow
    from training.run import RunDirectory

SPLITS = {
    "file": (
        "The parts are those of a given table, and clips cut from the same footage are in one of "
        "them alone: the figures are for footage that the network has never seen."
    ),
    "group": (
        "Whole groups of clips cut from the same footage are on one side: the figures are for "
        "footage that the network has never seen."
    ),
    "random": (
        "Clips cut from the same footage are on both sides: the figures are too good for new "
        "footage and serve to compare with the paper."
    ),
}


def inspect_groups(run: RunDirectory) -> dict[str, int]:
    """Count what speaks against the groups of a run's split, as JSON values.

    Returns:
        `clips` of all parts; `ungrouped`, those of which nothing tells the group, so that each
        counts as its own; `straddling`, the groups that are in more than one part.
    """
    parts: dict[str, set[str]] = {}
    clips = ungrouped = 0
    # Whoever names a table of groups answers for it, groups of one clip included.
    told = run.read_json("config.json").get("groups") is not None
    for part in PARTS:
        paths, groups = (run.read_split(part, column) for column in ("path", "group"))
        clips += len(paths)
        for path, group in zip(paths, groups, strict=True):
            parts.setdefault(group, set()).add(part)
            ungrouped += not told and path == group
    straddling = sum(len(of) > 1 for of in parts.values())
    return {"clips": clips, "ungrouped": ungrouped, "straddling": straddling}


def warn_of_groups(split: str, counts: Mapping[str, int] | None) -> list[str]:
    """Why the figures are not those of unseen footage though the split seems to promise it.

    Args:
        split: the protocol; "random" promises nothing.
        counts: of `inspect_groups`; None where an older version of this code did not count.
    """
    if split == "random" or not counts:
        return []
    warnings = []
    if counts["ungrouped"]:
        warnings.append(
            f"The groups of {counts['ungrouped']} of {counts['clips']} clips are not known: each "
            "counts as its own, and clips cut from one video can be on both sides of the split, so "
            "that the figures may be too good for new footage."
        )
    if counts["straddling"]:
        warnings.append(
            f"{counts['straddling']} groups of clips cut from the same footage are in more than "
            "one part of the split, so that the figures are too good for new footage."
        )
    return warnings


def explain_split(split: str, counts: Mapping[str, int] | None) -> str:
    """What a split means for its figures, in sentences."""
    if split == "file" and not counts:
        return "The parts are those of a given table."
    warnings = warn_of_groups(split, counts)
    return " ".join(warnings) if warnings else SPLITS[split]
