"""Reads the tensors of a PyTorch checkpoint without PyTorch: read_tensors("weights.pth").

Covers what `torch.save` of a state dict wrote before PyTorch 1.6: five pickles in a row (a magic
number, the protocol's version, facts about the system, the dict, the keys of the storages), then
the storages, each as its element count and its elements. Unpickling admits three names and calls no
other code, so a hostile file can do no more than fail. NOT covered: the zip format of later
versions, types other than the two below, big-endian files.

Source: torch/serialization.py, `_legacy_save` and `_legacy_load`.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "LongStorage": np.dtype("<i8"),
}


class TorchFileError(ValueError):
    """The file is not a checkpoint of the kind that can be read here."""


def read_tensors(path: Path) -> dict[str, Array]:
    """The state dict in the file, by name, in its order; the arrays are copies.

    Raises:
        TorchFileError: another format, or a damaged file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError) as error:
            raise TorchFileError(
                f"{path} is no PyTorch state dict in the format before 1.6: {error}"
            ) from error


def _read(file: BinaryIO) -> dict[str, Array]:
    if (_Unpickler(file).load(), _Unpickler(file).load()) != (_MAGIC, _PROTOCOL):
        raise TorchFileError("the magic number is another")
    if not _Unpickler(file).load().get("little_endian"):
        raise TorchFileError("it is not little-endian")
    state = _Unpickler(file)
    views: dict[str, Callable[[], Array]] = state.load()
    for key in _Unpickler(file).load():
        storage = state.storages[key]
        (count,) = np.frombuffer(file.read(8), "<i8")
        if count != len(storage):
            raise TorchFileError(f"storage {key} has {count} elements, not {len(storage)}")
        storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return {name: view() for name, view in views.items()}


class _Unpickler(pickle.Unpickler):
    """Admits what a state dict is made of; tensors become functions, to be called once all is read.

    The storages come after the dict in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Resolve one of the admitted names."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _defer_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Array:
        """Make room for a storage: ("storage", type, key, device, element count, view)."""
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError("a storage is not described as expected")
        return self.storages.setdefault(key, np.empty(count, dtype))


def _defer_tensor(
    storage: Array, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Callable[[], Array]:
    def build() -> Array:
        last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if min((0, offset, *strides)) < 0 or last >= len(storage):
            raise TorchFileError("a tensor reaches beyond its storage")
        steps = tuple(step * storage.itemsize for step in strides)
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()

    return build
