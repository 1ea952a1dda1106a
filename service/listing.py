"""Classified files as text: a table for people, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from clip import ModelManifest
from service.pipeline import Prediction
from service.schemas import PredictionReport

#: Longer names push their line's columns to the right, and no other line's.
_WIDEST_COLUMN = 60
#: Stages of /predict's answer that a file on the disk does not go through.
_REQUEST_STAGES: Final = {"receive", "total"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file has no prediction: a stable code, and words."""

    code: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class ClassifiedFile:
    """A file and what came of it."""

    path: Path
    outcome: Prediction | Failure


class Listing(Protocol):
    """A format: what stands above the files, and the text of each file; no line ends."""

    def head(self) -> str | None:
        """The first line, where the format has one."""

    def line(self, file: ClassifiedFile) -> str:
        """One file."""


class TableListing:
    """Columns for people; names are cleaned for a terminal."""

    def __init__(self, paths: Sequence[Path], manifest: ModelManifest, top_k: int) -> None:
        names = [len(_printable(path)) for path in paths]
        self._name_width = min(max(names, default=0), _WIDEST_COLUMN)
        self._label_width = max(len(label) for label in manifest.classes)
        self._top_k = top_k

    def head(self) -> str | None:
        """No heading: a label beside a file explains itself."""
        return None

    def line(self, file: ClassifiedFile) -> str:
        """Name, label, probability, and the next classes up to `top_k`."""
        name = _printable(file.path).ljust(self._name_width)
        match file.outcome:
            case Failure() as failure:
                return f"{name}  failed: {failure.title}. {failure.detail}"
            case prediction:
                (label, probability), *others = prediction.ranked()[: self._top_k]
                rest = ", ".join(f"{other} {_percent(share)}" for other, share in others)
                line = f"{name}  {label:{self._label_width}}  {_percent(probability):>7}  {rest}"
                return line.rstrip()


class JsonListing:
    """JSON Lines: an object for each file, with `error` in place of an answer where it failed."""

    def __init__(self, top_k: int | None) -> None:
        self._top_k = top_k

    def head(self) -> str | None:
        """Every line is an object."""
        return None

    def line(self, file: ClassifiedFile) -> str:
        """The fields of /predict's answer, and `file`."""
        record: dict[str, Any] = {"file": str(file.path)}
        match file.outcome:
            case Failure() as failure:
                record["error"] = {
                    "code": failure.code,
                    "title": failure.title,
                    "detail": failure.detail,
                }
            case prediction:
                report = PredictionReport.of(prediction, top_k=self._top_k)
                record |= report.model_dump(exclude={"timings_ms": _REQUEST_STAGES, "frames": True})
        return json.dumps(record, allow_nan=False)


class CsvListing:
    """CSV: a row for each file, a pair of columns for each of its `top_k` classes."""

    def __init__(self, manifest: ModelManifest, top_k: int) -> None:
        self._model = [manifest.name, manifest.version]
        self._top_k = min(top_k, len(manifest.classes))

    def head(self) -> str | None:
        """The columns' names."""
        pairs = [
            name
            for rank in range(1, self._top_k + 1)
            for name in (("label", "probability") if rank == 1 else _ranked_names(rank))
        ]
        return _csv_row(["file", "model", "version", *pairs, "duration_s", "error", "detail"])

    def line(self, file: ClassifiedFile) -> str:
        """Empty cells where a file failed, or `error` and `detail` where it did not."""
        match file.outcome:
            case Failure() as failure:
                pairs: list[object] = [""] * (2 * self._top_k)
                rest: list[object] = ["", failure.code, f"{failure.title}. {failure.detail}"]
            case prediction:
                pairs = [cell for pair in prediction.ranked()[: self._top_k] for cell in pair]
                rest = [round(prediction.clip.duration_s, 3), "", ""]
        return _csv_row([str(file.path), *self._model, *pairs, *rest])


def _ranked_names(rank: int) -> tuple[str, str]:
    return f"label_{rank}", f"probability_{rank}"


def _csv_row(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _printable(path: Path) -> str:
    """The name without what would move a terminal's cursor."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in str(path)
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
