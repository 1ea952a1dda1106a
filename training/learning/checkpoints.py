"""Checkpoints that survive `kill -9` and a full disk at any moment.

    <folder>/epoch-00007.npz    arrays and a JSON record, one file
    <folder>/LAST               the name of the newest whole one

A checkpoint is a new file, flushed to the disk before LAST is renamed onto it: LAST leads to a
whole checkpoint or does not exist. The one before is kept as well, for a disk that loses what it
promised to have.

NumPy alone: what the arrays mean is the business of training.learning.loop.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import DataError
from training.files import write_text, write_whole

POINTER = "LAST"
KEPT = 2

Arrays = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a training needs to go on after so many finished epochs.

    Attributes:
        epoch: finished epochs.
        record: JSON values.
        arrays: lists of arrays by name; none of Python objects.
    """

    epoch: int
    record: Mapping[str, Any]
    arrays: Mapping[str, Arrays]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, point LAST at it and remove the oldest ones.

    Raises:
        OSError: it could not be written, with its path; the ones before are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {name: len(arrays) for name, arrays in checkpoint.arrays.items()}
    record = json.dumps({"epoch": checkpoint.epoch, "arrays": lengths, **checkpoint.record})
    flat = {
        f"{name}/{place}": array
        for name, arrays in checkpoint.arrays.items()
        for place, array in enumerate(arrays)
    }
    name = f"epoch-{checkpoint.epoch:05}.npz"
    write_whole(
        folder / name,
        lambda file: np.savez(file, allow_pickle=False, record=np.array(record), **flat),
    )
    write_text(folder / POINTER, name)
    for old in sorted(folder.glob("epoch-*.npz"))[:-KEPT]:
        old.unlink()


def name_last(folder: Path) -> str | None:
    """The name of the newest checkpoint; None if none was finished.

    Raises:
        DataError: LAST is no text.
    """
    try:
        return (folder / POINTER).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{folder / POINTER} is damaged: write the name of a checkpoint into it, in UTF-8"
        ) from error


def read_last(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None if none was finished.

    Raises:
        DataError: it, or LAST, is damaged.
    """
    name = name_last(folder)
    if name is None:
        return None
    path = folder / name
    try:
        # NumPy does not close what it opened of a damaged archive.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            lists: dict[str, dict[int, npt.NDArray[Any]]] = {}
            for key in file.files:
                if key != "record":
                    name, place = key.split("/")
                    lists.setdefault(name, {})[int(place)] = file[key]
        # An archive whose directory is damaged can seem to hold less. Older ones do not tell.
        lengths = record.pop("arrays", {name: len(places) for name, places in lists.items()})
        arrays = {name: [lists[name][i] for i in range(count)] for name, count in lengths.items()}
    # RuntimeError: zipfile's, of a damaged entry that seems encrypted or of a later version.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the checkpoint {path} is damaged ({error}): write the name of an older one into "
            f"{folder / POINTER}"
        ) from error
    return Checkpoint(record.pop("epoch"), record, arrays)
