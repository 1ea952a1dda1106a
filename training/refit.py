"""A refit: a network trained anew with the validation clips, once these have selected its settings.

Afterwards they are worth more as training clips (Hastie, Tibshirani and Friedman, "The Elements of
Statistical Learning", sections 7.2 and 7.10: select by validation, fit the final model on all the
data but the test set). A refit has the settings of an earlier run, which must be given again, and
takes its parts. Nothing is left to pick an epoch by, so the last one counts; and nothing but that
run's validation figures speaks for the settings, so they go along.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.data.cache import UsableClips, refuse_changed
from training.data.splits import PARTS, Split, read_split, warn_of_split
from training.errors import DataError, OptionError
from training.options import FitConfig
from training.results.folds import is_fold, measure_folds
from training.results.footage import inspect_groups
from training.results.measure import read_metrics
from training.run import CONFIG_FILE, SPLIT_FILE, RunDirectory, differing_settings

SELECTION_FILE = "selected_by.json"
#: Settings in which a refit may differ from the run that selected the others.
_OWN = frozenset({"data", "dataset", "git_commit", "skip_bad", "test", "refit"})


@dataclass(frozen=True, slots=True)
class Selection:
    """What a refit has from the run that selected its settings.

    Attributes:
        record: what speaks for the settings, JSON values: `run`, its folder's name, and
            `git_commit`; `counts`, its clips by part; `footage`, see inspect_groups();
            `validation`, its figures at its `best_epoch` of `epochs_run`, by `monitor`; for
            `last_epoch`, the one that a refit keeps, the figures of history.csv; for a fold of a
            cross-validation the figures of all `folds` (training.results.folds); and whether any
            of these was `tested` on the test clips too.
        parts: the directory whose split.tsv has the parts.
    """

    record: dict[str, Any]
    parts: RunDirectory

    @classmethod
    def of_run(cls, path: Path, config: FitConfig) -> Selection:
        """Take up the run that `--refit` names.

        Raises:
            OptionError: it is not finished, is a refit itself, or has other settings; or it is of
                a cross-validation whose folds cannot be put together any more.
        """
        try:
            run = RunDirectory.open(path)
            metrics, last = read_metrics(run), run.read_history()
            begun = run.read_json(CONFIG_FILE)
        except (DataError, OSError) as error:
            raise OptionError(f"--refit: {error}") from error
        if begun.get("refit"):
            raise OptionError(f"--refit {path} is a refit itself: name the run that selected")
        now = json.loads(json.dumps(asdict(config)))
        differing = differing_settings(begun, now, _OWN)
        if differing:
            listed = ", ".join(
                f"{name} ({old}, now {new})" for name, (old, new) in differing.items()
            )
            raise OptionError(f"--refit {path} had other settings: {listed}")
        record = {
            "run": path.resolve().name,
            "git_commit": begun["git_commit"],
            "counts": {part: len(run.read_split(part, "path")) for part in PARTS},
            "footage": inspect_groups(run),
            "monitor": now["monitor"],
            "best_epoch": metrics["best_epoch"],
            "epochs_run": metrics["epochs_run"],
            "validation": metrics["validation"],
            "last_epoch": {name: values[-1] for name, values in last.items()},
            "tested": "test" in metrics,
        }
        try:
            folds = measure_folds(path.parent) if is_fold(run) else None
        except DataError as error:
            raise OptionError(f"--refit: {error}") from error
        if folds:
            record["folds"] = folds["all"]
            record["tested"] |= any(row["tested"] for row in folds["folds"])
        return cls(record, run)

    @classmethod
    def of_refit(cls, run: RunDirectory, path: Path) -> Selection | None:
        """What a refit that is resumed kept; the run that it names may be gone, or measured anew.

        Returns:
            None if it kept nothing yet.

        Raises:
            OptionError: it was begun with another run.
        """
        if not all((run.path / name).exists() for name in (SELECTION_FILE, SPLIT_FILE)):
            return None
        record = run.read_json(SELECTION_FILE)
        if record["run"] != path.resolve().name:
            raise OptionError(f"{run.path} was begun with --refit {record['run']}")
        return cls(record, run)

    def split(self, usable: UsableClips, protocol: str) -> Split:
        """The parts, the validation clips among the training ones.

        Raises:
            DataError: clips are missing, or other files have their names now.
            OptionError: they are in other groups now.
        """
        split = read_split(usable.index, self.parts.path / SPLIT_FILE)
        for part, clips in split.parts.items():
            digests, groups = (self.parts.read_split(part, name) for name in ("sha256", "group"))
            refuse_changed(clips, usable.entries, digests, folder=usable.index.folder)
            if [clip.group for clip in clips] != groups:
                raise OptionError(
                    f"--refit: {self.parts.path} had its {part} clips in other groups: name the "
                    "same --groups"
                )
        joined = replace(split, train=(*split.train, *split.validation), validation=())
        warnings = warn_of_split(usable.index, protocol, joined)
        return replace(joined, warnings=(*split.warnings, *warnings))
