"""What a network said of the clips of a split, as a table that lies in the run directory.

    predictions.tsv     part, path, class, group, predicted, then p(label) for each class

The reports are written from it, without the network and, but for the pictures of mistakes, without
the data; and whoever wants a figure that no report has can compute it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.delimited import format_table, read_rows
from training.results.evaluate import Probabilities, Targets
from training.run import RunDirectory

FILE = "predictions.tsv"
_COLUMNS = ("part", "path", "class", "group", "predicted")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Networks' answers for clips: of one part of a split in the order of split.tsv.

    Attributes:
        paths, groups: (N,), of each clip.
        targets: (N,), the true class of each clip as its place among the classes.
        probabilities: float32 (N, classes).
    """

    paths: tuple[str, ...]
    groups: tuple[str, ...]
    targets: Targets
    probabilities: Probabilities

    @classmethod
    def of_part(
        cls, run: RunDirectory, part: str, probabilities: Probabilities, classes: Sequence[str]
    ) -> Predictions:
        """Put a network's answers beside what split.tsv says of the part's clips.

        Raises:
            ValueError: there are not as many answers as clips.
        """
        labels = run.read_split(part, "class")
        if len(labels) != len(probabilities):
            raise ValueError(f"{len(probabilities)} answers for the {len(labels)} {part} clips")
        return cls(
            tuple(run.read_split(part, "path")),
            tuple(run.read_split(part, "group")),
            np.array([classes.index(label) for label in labels], np.intp),
            probabilities,
        )

    @classmethod
    def join(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several parts, ordered by the clips' paths."""
        paths = [path for part in parts for path in part.paths]
        groups = [group for part in parts for group in part.groups]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        return cls(
            tuple(paths[i] for i in order),
            tuple(groups[i] for i in order),
            np.concatenate([part.targets for part in parts])[order],
            np.concatenate([part.probabilities for part in parts])[order],
        )

    @property
    def predicted(self) -> npt.NDArray[np.intp]:
        """(N,), the most probable class of each clip."""
        return np.asarray(self.probabilities.argmax(axis=1), np.intp)

    def confident_mistakes(self, most: int) -> list[int]:
        """The places of the clips called something else with the highest probability."""
        wrong = np.flatnonzero(self.predicted != self.targets)
        confidence = self.probabilities.max(axis=1)[wrong]
        return [int(place) for place in wrong[np.argsort(-confidence, kind="stable")][:most]]


def write_predictions(
    run: RunDirectory, parts: Mapping[str, Predictions], classes: Sequence[str]
) -> None:
    """Write predictions.tsv."""
    rows: list[list[str]] = [[*_COLUMNS, *map(_column, classes)]]
    for part, answers in parts.items():
        for i, row in enumerate(answers.probabilities):
            names = classes[answers.targets[i]], answers.groups[i], classes[answers.predicted[i]]
            # Nine digits bring a float32 back to the bit.
            rows.append([part, answers.paths[i], *names, *(f"{value:.9g}" for value in row)])
    run.write_text(FILE, format_table(rows))


def read_predictions(run: RunDirectory, classes: Sequence[str]) -> dict[str, Predictions]:
    """Read predictions.tsv: the predictions of each part that was written."""
    rows = read_rows(run.path / FILE)
    return {
        part: _parse([row for row in rows if row["part"] == part], classes)
        for part in dict.fromkeys(row["part"] for row in rows)
    }


def _parse(rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> Predictions:
    return Predictions(
        tuple(row["path"] for row in rows),
        tuple(row["group"] for row in rows),
        np.array([classes.index(row["class"]) for row in rows], np.intp),
        np.array([[row[_column(label)] for label in classes] for row in rows], np.float32),
    )


def _column(label: str) -> str:
    return f"p({label})"  # a class may be called "path"
