"""A refit: a network trained anew with the validation clips, once these have selected its settings.

Afterwards they are worth more as training clips (Hastie, Tibshirani and Friedman, "The Elements of
Statistical Learning", sections 7.2 and 7.10: select by validation, fit the final model on all the
data but the test set). A refit takes the settings and the parts of an earlier run. Nothing is left
to pick an epoch by, so the last one counts; and nothing but that run's validation figures speaks
for the settings, so they go along.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from training.data.cache import UsableClips, refuse_changed
from training.data.splits import PARTS, Split, read_split
from training.errors import DataError, OptionError
from training.options import NAMES, FitConfig
from training.results.footage import inspect_groups
from training.results.measure import read_metrics
from training.run import CONFIG_FILE, SPLIT_FILE, RunDirectory, completed

#: Settings in which a refit may differ from the run that selected the others.
_OWN = NAMES | {"test", "refit"}


def open_selection(path: Path, config: FitConfig) -> RunDirectory:
    """The run whose settings a refit takes.

    Args:
        path: its directory.
        config: the refit's.

    Raises:
        OptionError: it is not finished, is a refit itself, or has other settings.
    """
    try:
        run = RunDirectory.open(path)
        read_metrics(run)
        begun = run.read_json(CONFIG_FILE)
    except DataError as error:
        raise OptionError(f"--refit: {error}") from error
    if begun.get("refit"):
        raise OptionError(f"--refit {path} is a refit itself: name the run that selected for it")
    now = json.loads(json.dumps(asdict(config)))
    settings = completed(begun, now)
    differing = [
        f"{name} ({json.dumps(settings.get(name))}, now {json.dumps(now.get(name))})"
        for name in sorted((settings.keys() | now.keys()) - _OWN)
        if settings.get(name) != now.get(name)
    ]
    if differing:
        raise OptionError(f"--refit {path} had other settings: {', '.join(differing)}")
    return run


def join_validation(usable: UsableClips, selection: RunDirectory) -> Split:
    """A refit's split: that of the run that selected, the validation clips among the training ones.

    Raises:
        DataError: clips of that run are missing, or other files have their names now.
    """
    split = read_split(usable.index, selection.path / SPLIT_FILE)
    for part, clips in split.parts.items():
        digests = selection.read_split(part, "sha256")
        refuse_changed(clips, usable.entries, digests, folder=usable.index.folder)
    return replace(split, train=(*split.train, *split.validation), validation=())


def describe_selection(selection: RunDirectory) -> dict[str, Any]:
    """What speaks for a refit's settings, as JSON values.

    Returns:
        `run`, its folder's name, and `git_commit`; `counts`, its clips by part; `footage`, see
        inspect_groups(); `validation`, its figures at its `best_epoch` of `epochs_run`; for
        `last_epoch`, the one that a refit keeps, the figures of history.csv; and whether it was
        `tested` on the test clips too.
    """
    metrics, last = read_metrics(selection), selection.read_history()
    return {
        "run": selection.path.resolve().name,
        "git_commit": selection.read_json(CONFIG_FILE)["git_commit"],
        "counts": {part: len(selection.read_split(part, "path")) for part in PARTS},
        "footage": inspect_groups(selection),
        "best_epoch": metrics["best_epoch"],
        "epochs_run": metrics["epochs_run"],
        "validation": metrics["validation"],
        "last_epoch": {name: values[-1] for name, values in last.items()},
        "tested": "test" in metrics,
    }
