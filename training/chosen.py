"""The run that chose the settings of a refit, and what a refit owes it.

Once validation has picked the settings, its clips are worth more as training clips: a refit trains
anew on both parts, with the same settings and for as many epochs (Hastie, Tibshirani and Friedman,
"The Elements of Statistical Learning", section 7.10, choose and fit their final model so). Nothing
is left to pick an epoch by, so the last one counts; and nothing but the chosen run's figures speaks
for the settings, so they go along.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.data.index import Clip
from training.data.splits import PARTS, Split
from training.errors import OptionError
from training.options import FitConfig
from training.results.measure import read_metrics
from training.run import CONFIG_FILE, RunDirectory

#: What may differ: names of files and the code, and what belongs to a refit or to a choice.
_OWN = frozenset({"data", "dataset", "groups", "split_file", "git_commit", "test", "refit"})


def open_chosen(path: Path, config: FitConfig) -> RunDirectory:
    """The run whose settings a refit takes.

    Args:
        path: its directory.
        config: the refit's.

    Raises:
        OptionError: it is a refit itself, ended early, or has other settings.
        DataError: it is not finished.
    """
    run = RunDirectory.open(path)
    metrics, begun = read_metrics(run), run.read_json(CONFIG_FILE)
    settings = {**FitConfig.defaults(), **begun}
    if settings["refit"]:
        raise OptionError(f"--refit {path} is a refit itself: name the run that chose its settings")
    now = json.loads(json.dumps(asdict(config)))
    differing = sorted(name for name in now.keys() - _OWN if settings.get(name) != now[name])
    if differing:
        told = ", ".join(
            f"{name} ({json.dumps(settings.get(name))}, now {json.dumps(now[name])})"
            for name in differing
        )
        raise OptionError(f"--refit {path} was trained with other settings: {told}")
    if metrics["epochs_run"] != config.epochs:
        raise OptionError(
            f"--refit {path} ended early, after {metrics['epochs_run']} of {config.epochs} epochs: "
            "choose by a run with --patience as high as --epochs"
        )
    return run


def join_validation(split: Split, digests: Mapping[Clip, str], chosen: RunDirectory) -> Split:
    """A refit's split: the chosen run's, its validation clips among the training clips.

    Args:
        split: as the refit's own options make it.
        digests: the sha256 of each clip's file, as far as it is known.
        chosen: the run whose settings it takes.

    Raises:
        OptionError: that run had other clips, or had them in other parts.
    """
    for part in PARTS:
        columns = (chosen.read_split(part, name) for name in ("path", "sha256"))
        theirs = dict(zip(*columns, strict=True))
        mine = {clip.path: digests.get(clip, "") for clip in split.parts[part]}
        # An older version of this code did not keep the digests.
        if theirs.keys() != mine.keys() or any(
            theirs[path] != mine[path] for path in mine if theirs[path] and mine[path]
        ):
            raise OptionError(
                f"--refit {chosen.path} had other {part} clips: name the data, the table of groups "
                "or of parts that it had"
            )
    return replace(split, train=(*split.train, *split.validation), validation=())


def recount_choice(chosen: RunDirectory) -> dict[str, Any]:
    """What speaks for a refit's settings: the chosen run's figures, as JSON values."""
    metrics = read_metrics(chosen)
    return {
        "run": chosen.path.resolve().name,
        "git_commit": chosen.read_json(CONFIG_FILE)["git_commit"],
        "counts": {part: len(chosen.read_split(part, "path")) for part in PARTS},
        "best_epoch": metrics["best_epoch"],
        "epochs_run": metrics["epochs_run"],
        "validation": metrics["validation"],
    }
