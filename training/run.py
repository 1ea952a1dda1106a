"""A run directory: everything that one training run leaves behind."""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import training.layers  # noqa: F401  its classes register themselves with Keras
from training.data import DataError
from training.splits import Split

MODEL_FILE = "model.keras"


def current_commit() -> str:
    """The commit of the running code, "-dirty" with changed or new files; "unknown" without git."""
    try:
        commit, changes = (
            _git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changes else commit


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    command = ["git", *words]
    done = subprocess.run(  # noqa: S603  the words are constants
        command, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run; each appears whole or not at all."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make the directory of a new run.

        Raises:
            DataError: it exists and is not empty.
        """
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DataError(f"{path} already holds a run: choose another --out")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Take up the directory of a finished run.

        Raises:
            DataError: it is none.
        """
        if not (path / MODEL_FILE).is_file():
            raise DataError(f"{path} is not a finished run: it has no {MODEL_FILE}")
        return cls(path)

    def write_json(self, name: str, record: object) -> None:
        """Write a record as indented JSON; NaN is an error."""
        self.write_text(name, json.dumps(record, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Parse one of the run's JSON files."""
        return json.loads((self.path / name).read_text())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file under its name at once."""
        part = self.path / f"part.{name}"
        part.write_text(text)
        part.replace(self.path / name)

    def write_split(self, split: Split) -> None:
        """Write split.tsv: which clip is in which part."""
        rows = [
            f"{clip.path}\t{clip.label}\t{clip.group}\t{name}\n"
            for name, part in split.parts.items()
            for clip in part
        ]
        self.write_text("split.tsv", "path\tclass\tgroup\tpart\n" + "".join(rows))

    def read_split(self, part: str, column: str) -> list[str]:
        """One column (path, class or group) of the clips in one part of the split."""
        with (self.path / "split.tsv").open(newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return [row[column] for row in rows if row["part"] == part]

    def save_model(self, model: keras.Model) -> None:
        """Write the trained model."""
        part = self.path / f"part.{MODEL_FILE}"
        model.save(part)
        part.replace(self.path / MODEL_FILE)

    def load_model(self) -> keras.Model:
        """Read the trained model, without its optimizer."""
        return keras.saving.load_model(self.path / MODEL_FILE, compile=False)
