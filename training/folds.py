"""Cross-validation by groups: the figure to choose settings by.

    python -m training.folds --out runs/plain --data mine/ --groups groups.tsv --model lrcn \
        --epochs 20 --schedule cosine --patience 20
    python -m training.folds --out runs/decay ... --weight-decay 4 --against runs/plain

Of the clips that are not for testing, each is for validation in one of five normal runs,
`<out>/fold-0/` to `fold-4/`, made by `training.fit` with the options that follow (training.series).
One such fifth has so few pieces of footage that two settings can hardly be told apart by it. At the
end stand `<out>/folds.md` and `folds.json` (training.results.folds); with --against also how far
other settings are apart from these, clip by clip. The test clips are left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from training.arguments import command_parser
from training.data.splits import FOLDS
from training.errors import DataError, OptionError
from training.results.folds import FOLD_NAMES, measure_folds, open_folds, write_folds
from training.series import SeriesError, train_series

#: What the command decides for its runs.
_DECIDED = frozenset({"--split", "--split-file", "--fold", "--no-test"})


def run_folds(out: Path, options: Sequence[str], against: Sequence[Path] = ()) -> dict[str, Any]:
    """Train what is not trained yet, measure all folds' validation clips together, and report.

    Args:
        out: the cross-validation's directory.
        options: of `training.fit`, but for those that are decided here.
        against: directories of other cross-validations, finished and of the same clips.

    Returns:
        What training.results.folds.measure_folds() found.

    Raises:
        SeriesError, OptionError: see train_series().
        DataError: the folds cannot be put together, `against` is no such directory, or its clips
            are others; then the report is written without it.
    """
    for other in against:
        open_folds(other)  # not to be found out after hours of training
    # The last first: where groups are few, it is the first to lack a class, and ends it all at
    # once.
    own = {
        name: ("--split", "group", "--fold", str(fold), "--no-test")
        for fold, name in reversed(tuple(enumerate(FOLD_NAMES)))
    }
    train_series(out, own, options, decided=_DECIDED)
    found = measure_folds(out)
    write_folds(out, found)
    if against:  # whose clips are known by now: what does not compare must not cost the report
        found = measure_folds(out, against)
        write_folds(out, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 or 2 with a message on standard error.

    2 is for the command line, as with training.fit, 1 for all else.
    """
    parser = command_parser(
        "folds",
        f"Measure settings by {FOLDS} folds of the clips that are not for testing.",
        epilog="All other options are those of training.fit and go to the run of every fold.",
    )
    parser.add_argument("--out", type=Path, required=True, help="the cross-validation's directory")
    parser.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDS",
        help="directories of finished cross-validations to tell the difference from",
    )
    own, options = parser.parse_known_args(arguments)
    try:
        run_folds(own.out, options, own.against)
    except (SeriesError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    print((own.out / "folds.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
