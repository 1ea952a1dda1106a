"""A series of runs that differ in one option, made one after another by `training.fit`.

Ended at any moment, the same command goes on: finished runs stay, one that was under way is taken
up. `options.json` in the series' directory holds every start to the options of the first.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from training import fit
from training.learning.workers import read_cluster
from training.run import MODEL_FILE, RunDirectory

#: The series' own record of the options of its runs.
OPTIONS_FILE = "options.json"
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
        The finished runs by their names.

    Raises:
        SeriesError: `out` holds a series with other options, a run failed, or TF_CONFIG names
            several workers.
    """
    if read_cluster(os.environ.get("TF_CONFIG", ""))[0] > 1:
        raise SeriesError(
            "a series of runs trains alone: unset TF_CONFIG, or train each run by training.fit "
            "with several workers"
        )
    _check_options(out, options, _DECIDED | set(decided))
    series = RunDirectory(out)
    for name, extra in own.items():
        path = out / name
        if _is_finished(path):
            print(f"{name}: finished before", flush=True)
            continue
        print(f"{name}: {path}", flush=True)
        if fit.main([*options, *extra, "--out", str(path), "--resume"]):
            raise SeriesError(f"{name} failed, see above; the same command goes on with it")
        # Not before: a first start with a wrong option must not bind the second.
        series.write_json(OPTIONS_FILE, list(options))
    return {name: RunDirectory.open(out / name) for name in own}


def _check_options(out: Path, options: Sequence[str], decided: Collection[str]) -> None:
    """Hold every start of a series to the options of the first, so that its runs compare."""
    own = [option for option in options if option.split("=")[0] in decided]
    if own:
        raise SeriesError(f"{', '.join(own)}: this command decides that itself")
    if not (out / OPTIONS_FILE).exists():
        return
    before = RunDirectory(out).read_json(OPTIONS_FILE)
    if before != list(options):
        raise SeriesError(
            f"{out} holds runs with other options ({' '.join(before)}): name the same, or "
            "choose another --out"
        )


def _is_finished(path: Path) -> bool:
    # The report is the last that training.fit writes.
    return all((path / name).exists() for name in (MODEL_FILE, "metrics.json", "report.md"))
