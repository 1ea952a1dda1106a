"""A series of runs that differ in one option, made one after another by `training.fit`.

Ended at any moment, the same command goes on: finished runs stay, one that was under way is taken
up. Other options than a run began with are refused, finished or not.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from training import fit
from training.errors import OptionError
from training.learning.workers import read_cluster
from training.options import FitConfig, parse_arguments
from training.run import CONFIG_FILE, MODEL_FILE, RunDirectory, current_commit, default_cache

#: What every series decides for its runs.
_DECIDED = frozenset({"--out", "--publish", "--refit", "--resume"})


class SeriesError(RuntimeError):
    """The series cannot go on; the message says why and what to do."""


def train_series(
    out: Path, own: Mapping[str, Sequence[str]], options: Sequence[str], *, decided: Collection[str]
) -> dict[str, RunDirectory]:
    """Train what is not trained yet.

    Args:
        out: the series' directory.
        own: for the name of each run, which is its folder below `out`, the options of
            `training.fit` that it alone has.
        options: those that all of them have.
        decided: names of options that are refused in `options`, beside those that every series
            decides.

    Returns:
        The finished runs by their names, in the order of `own`.

    Raises:
        SeriesError: a run failed.
        OptionError: an option cannot be or is decided here, a run was begun with others, or
            TF_CONFIG names several workers or cannot be read.
    """
    if read_cluster(os.environ.get("TF_CONFIG", ""))[0] > 1:
        raise OptionError(
            "a series of runs trains alone: unset TF_CONFIG, or train each run by training.fit "
            "with several workers"
        )
    refused = [option for option in options if option.split("=")[0] in _DECIDED | set(decided)]
    if refused:
        raise OptionError(f"{', '.join(refused)}: this command decides that itself")
    # One cache for all, beside the series as beside a run.
    lines = {
        name: ["--cache", str(default_cache(out)), *options, *extra, "--out", str(out / name)]
        for name, extra in own.items()
    }
    for name, line in lines.items():  # all of them, before one is trained for nothing
        if (out / name / CONFIG_FILE).exists():
            _hold_to(out / name, line)
    for name, line in lines.items():
        if _is_finished(out / name):
            print(f"{name}: finished before", flush=True)
            continue
        print(f"{name}: {out / name}", flush=True)
        status = fit.main([*line, "--resume"])
        if status == 2:
            raise OptionError(f"{name} cannot be trained so, see above")
        if status:
            raise SeriesError(f"{name} failed, see above; the same command goes on with it")
    return {name: RunDirectory.open(out / name) for name in own}


def _hold_to(path: Path, line: Sequence[str]) -> None:
    """Refuse other options than those that a run began with."""
    run, arguments = RunDirectory(path), parse_arguments(line)
    # By default they depend on the data, which need not be there any more.
    classes = arguments.classes or run.read_json(CONFIG_FILE)["classes"]
    run.fix_config(asdict(FitConfig.of_arguments(arguments, classes, current_commit())))


def _is_finished(path: Path) -> bool:
    # The report is the last that training.fit writes.
    return all((path / name).exists() for name in (MODEL_FILE, "metrics.json", "report.md"))
