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
from training.learning.workers import read_cluster
from training.options import FitConfig, parse_arguments
from training.run import MODEL_FILE, RunDirectory, current_commit, default_cache

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
        SeriesError: an option that is decided here, a run failed, or TF_CONFIG names several
            workers.
        OptionError: a finished run has other options, or TF_CONFIG cannot be read.
    """
    if read_cluster(os.environ.get("TF_CONFIG", ""))[0] > 1:
        raise SeriesError(
            "a series of runs trains alone: unset TF_CONFIG, or train each run by training.fit "
            "with several workers"
        )
    refused = [option for option in options if option.split("=")[0] in _DECIDED | set(decided)]
    if refused:
        raise SeriesError(f"{', '.join(refused)}: this command decides that itself")
    runs = {}
    for name, extra in own.items():
        path = out / name
        # One cache for all, beside the series as beside a run.
        line = ["--cache", str(default_cache(out)), *options, *extra, "--out", str(path)]
        if _is_finished(path):
            _hold_to(path, line)
            print(f"{name}: finished before", flush=True)
        else:
            print(f"{name}: {path}", flush=True)
            if fit.main([*line, "--resume"]):
                raise SeriesError(f"{name} failed, see above; the same command goes on with it")
        runs[name] = RunDirectory.open(path)
    return runs


def _hold_to(path: Path, line: Sequence[str]) -> None:
    """Refuse other options than those that a finished run began with."""
    run, arguments = RunDirectory(path), parse_arguments(line)
    # By default they depend on the data, which need not be there any more.
    classes = arguments.classes or run.read_json("config.json")["classes"]
    run.fix_config(asdict(FitConfig.of_arguments(arguments, classes, current_commit())))


def _is_finished(path: Path) -> bool:
    # The report is the last that training.fit writes.
    return all((path / name).exists() for name in (MODEL_FILE, "metrics.json", "report.md"))
