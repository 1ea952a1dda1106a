"""A run directory: everything that one training run leaves behind."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

import training.networks.efficientnet
import training.networks.layers  # noqa: F401  the classes of both register themselves with Keras
from clip import ClipSpec, SpecError
from training.data.index import Clip
from training.data.splits import Split
from training.delimited import format_table, read_rows
from training.errors import DataError, OptionError
from training.files import PART, save_whole, sweep, write_text
from training.locking import LOCK_FILE
from training.options import FitConfig

CONFIG_FILE = "config.json"
SPLIT_FILE = "split.tsv"
MODEL_FILE = "model.keras"
HISTORY_FILE = "history.csv"
_SPLIT_COLUMNS = ("path", "class", "group", "part", "sha256")


def current_commit() -> str:
    """The commit of the running code, "-dirty" with changed or new files.

    Without git what TRAINING_COMMIT says, as in the image, or "unknown".
    """
    try:
        commit, changes = (
            _git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("TRAINING_COMMIT", "unknown")
    return f"{commit}-dirty" if changes else commit


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    command = ["git", *words]
    done = subprocess.run(  # noqa: S603  the words are constants
        command, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def differing_settings(
    begun: Mapping[str, Any], now: Mapping[str, Any], left_out: Collection[str]
) -> dict[str, tuple[str, str]]:
    """In which settings two configurations differ.

    Args:
        begun: a config.json.
        now: another configuration, JSON values.
        left_out: names of settings that may differ.

    Returns:
        By name, in their order, both values in JSON.
    """
    before = _completed(begun, now)
    after = _completed(now, begun)
    return {
        name: (json.dumps(before.get(name)), json.dumps(after.get(name)))
        for name in sorted((before.keys() | after.keys()) - set(left_out))
        if before.get(name) != after.get(name)
    }


def _completed(begun: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that an older version of this code began, with what it did not write.

    Args:
        begun: its config.json.
        now: the settings that it is compared with.
    """
    known = {**FitConfig.defaults(), **begun}
    phases = known.get("phases", ())
    if not phases or len(phases) != len(now.get("phases", ())):
        return known
    whole = [{**new, **old} for old, new in zip(phases, now["phases"], strict=True)]
    return {**known, "phases": whole}


def default_cache(path: Path) -> Path:
    """Where the decoded clips of a run are, unless it is told otherwise."""
    return path.resolve().parent / "cache"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run; each appears whole or not at all."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make the directory of a new run.

        Raises:
            OptionError: it exists and is not empty.
        """
        run = cls(path)
        run._refuse_used()
        path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def resume(cls, path: Path) -> RunDirectory:
        """Take up the directory of a run that may be unfinished, or not yet begun.

        Raises:
            OptionError: it holds something else.
        """
        path.mkdir(parents=True, exist_ok=True)
        sweep(path, age_s=0)
        if not (path / CONFIG_FILE).is_file():
            return cls.create(path)
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

    def check_begin(self, config: Mapping[str, Any], *, resume: bool) -> None:
        """Refuse what `create` or `resume`, and then `fix_config`, would; writes nothing.

        Raises:
            OptionError: see there.
        """
        if resume and (self.path / CONFIG_FILE).is_file():
            self._hold_to(config)
        else:
            self._refuse_used()

    def _refuse_used(self) -> None:
        names = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        if any(name != LOCK_FILE and not name.startswith(PART) for name in names):
            raise OptionError(
                f"{self.path} already holds a run: choose another --out, or go on with it by "
                "--resume"
                if CONFIG_FILE in names
                else f"{self.path} already holds a run or something else: choose another --out"
            )

    def write_json(self, name: str, record: object) -> None:
        """Write a record as indented JSON; NaN is an error."""
        self.write_text(name, json.dumps(record, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Parse one of the run's JSON files.

        Raises:
            DataError: it is damaged.
            OSError: it cannot be read.
        """
        try:
            return json.loads((self.path / name).read_text())
        except ValueError as error:
            raise DataError(f"{self.path / name} is damaged: {error}") from error

    def read_clip_spec(self) -> ClipSpec:
        """How the run's clips are decoded.

        Raises:
            DataError: this version of the code cannot decode so.
        """
        try:
            return ClipSpec.from_dict(self.read_json(CONFIG_FILE)["clip_spec"])
        except SpecError as error:
            raise DataError(f"{self.path / CONFIG_FILE}: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a text file under its name at once."""
        write_text(self.path / name, text)

    def fix_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json, or hold a resumed run to the one that is there.

        Another commit of the code is no other run; the file keeps the one that it began with.

        Raises:
            OptionError: the run was begun with another configuration; the message shows both.
        """
        if (self.path / CONFIG_FILE).exists():
            self._hold_to(config)
        else:
            self.write_json(CONFIG_FILE, config)

    def _hold_to(self, config: Mapping[str, Any]) -> None:
        now = {**FitConfig.defaults(), **json.loads(json.dumps(config))}
        begun = _completed(self.read_json(CONFIG_FILE), now)
        now["git_commit"] = begun.get("git_commit")
        self._refuse_difference(
            CONFIG_FILE,
            *(json.dumps(record, indent=2, sort_keys=True) for record in (begun, now)),
        )

    def _refuse_difference(self, name: str, begun: str, now: str) -> None:
        if begun != now:
            lines = difflib.unified_diff(
                begun.splitlines(), now.splitlines(), "begun with", "now", lineterm="", n=0
            )
            raise OptionError(
                f"{self.path} cannot be resumed, its {name} would be another:\n" + "\n".join(lines)
            )

    def write_split(self, split: Split, digests: Mapping[Clip, str]) -> None:
        """Write split.tsv, which clip is in which part, or hold a resumed run to the one there is.

        Args:
            split: the parts; no name in them has a control character.
            digests: the sha256 of each clip's file, as far as it is known.

        Raises:
            OptionError: the run was begun with another split, or with other files under these
                names; the message shows what is different.
        """
        rows = [
            (clip.path, clip.label, clip.group, name, digests.get(clip, ""))
            for name, part in split.parts.items()
            for clip in part
        ]
        text = format_table([_SPLIT_COLUMNS, *rows])
        if (self.path / SPLIT_FILE).exists():
            begun = (self.path / SPLIT_FILE).read_text(encoding="utf-8")
            self._refuse_difference(SPLIT_FILE, begun, text)
        else:
            self.write_text(SPLIT_FILE, text)

    def read_split(self, part: str, column: str) -> list[str]:
        """One column (path, class, group or sha256) of the clips in one part of the split.

        The sha256 is empty where it was not known.
        """
        rows = read_rows(self.path / SPLIT_FILE)
        return [row.get(column, "") for row in rows if row["part"] == part]

    def read_history(self) -> dict[str, list[float]]:
        """history.csv: a value for each epoch, by name."""
        rows = read_rows(self.path / HISTORY_FILE, ",")
        return {name: [float(row[name]) for row in rows] for name in rows[0]}

    def has_other_clips(self, other: RunDirectory, *parts: str) -> bool:
        """Whether parts have other clips than another run's, or other files under their names.

        Of several parts it does not matter which of them a clip is in.

        An older version of this code did not keep what tells the files.
        """
        mine, theirs = (
            dict(
                pair
                for part in parts
                for pair in zip(
                    run.read_split(part, "path"), run.read_split(part, "sha256"), strict=True
                )
            )
            for run in (self, other)
        )
        return mine.keys() != theirs.keys() or any(
            digest and theirs[path] and digest != theirs[path] for path, digest in mine.items()
        )

    def save_model(self, model: keras.Model) -> None:
        """Write the trained model; it is on the disk before metrics.json tells of it."""
        save_whole(self.path / MODEL_FILE, model.save)

    def load_model(self) -> keras.Model:
        """Read the trained model, without its optimizer.

        Raises:
            DataError: it is damaged.
        """
        file = self.path / MODEL_FILE
        # Keras says of a file that is no archive that it is not there.
        if not zipfile.is_zipfile(file):
            raise DataError(f"{file} is damaged: it is no archive")
        return keras.saving.load_model(file, compile=False)
