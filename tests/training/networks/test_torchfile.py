"""Files in the old format of torch.save are put together here by hand, PyTorch being absent."""

import collections
import pickle
import struct

import numpy as np
import pytest

from training.networks.torchfile import TorchFileError, read_tensors

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Named:
    """Pickles as a reference to a name, or as a call of one."""

    def __init__(self, module, name, arguments=None):
        self.module, self.name, self.arguments = module, name, arguments


class StorageId(tuple):
    """Pickles as a persistent id."""

    __slots__ = ()


class Writer(pickle._Pickler):
    def persistent_id(self, obj):
        return tuple(obj) if isinstance(obj, StorageId) else None

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, Named):
            super().save(obj, save_persistent_id)
            return
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        if obj.arguments is not None:
            self.save(obj.arguments)
            self.write(pickle.REDUCE)


def tensor(key, kind, count, shape, strides, offset=0):
    storage = StorageId(("storage", Named("torch", kind), key, "cpu", count, None))
    arguments = (storage, offset, shape, strides, False, collections.OrderedDict())
    return Named("torch._utils", "_rebuild_tensor_v2", arguments)


def write(path, state, storages, *, magic=MAGIC, little_endian=True):
    with path.open("wb") as file:
        system = {"protocol_version": PROTOCOL, "little_endian": little_endian}
        for record in (magic, PROTOCOL, system, state, list(storages)):
            Writer(file, 2).dump(record)
        for values in storages.values():
            file.write(struct.pack("<q", len(values)) + values.tobytes())
    return path


def test_tensors_come_back_with_their_shapes_views_and_types(tmp_path):
    weights = np.arange(6, dtype="<f4")
    state = collections.OrderedDict(
        whole=tensor("1", "FloatStorage", 6, (2, 3), (3, 1)),
        turned=tensor("1", "FloatStorage", 6, (3, 2), (1, 3)),
        tail=tensor("1", "FloatStorage", 6, (2,), (1,), offset=4),
        steps=tensor("2", "LongStorage", 1, (), ()),
    )
    path = write(tmp_path / "x.pth", state, {"1": weights, "2": np.array([7], "<i8")})
    tensors = read_tensors(path)
    assert list(tensors) == ["whole", "turned", "tail", "steps"]
    np.testing.assert_array_equal(tensors["whole"], weights.reshape(2, 3))
    np.testing.assert_array_equal(tensors["turned"], weights.reshape(2, 3).T)
    np.testing.assert_array_equal(tensors["tail"], [4, 5])
    assert (tensors["steps"].dtype, int(tensors["steps"])) == (np.int64, 7)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    state = collections.OrderedDict(x=Named("os", "system", ("touch /tmp/never",)))
    path = write(tmp_path / "x.pth", state, {})
    with pytest.raises(TorchFileError, match=r"it refers to os\.system"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"magic": 5}, "magic number"), ({"little_endian": False}, "little-endian")],
)
def test_other_formats_are_refused(options, message, tmp_path):
    with pytest.raises(TorchFileError, match=message):
        read_tensors(write(tmp_path / "x.pth", collections.OrderedDict(), {}, **options))


@pytest.mark.parametrize("shape", [(7,), (2, 4)])
def test_a_tensor_beyond_its_storage_is_refused(shape, tmp_path):
    state = {"x": tensor("1", "FloatStorage", 6, shape, (4, 1)[-len(shape) :])}
    path = write(tmp_path / "x.pth", state, {"1": np.zeros(6, "<f4")})
    with pytest.raises(TorchFileError, match="beyond its storage"):
        read_tensors(path)


@pytest.mark.parametrize("kept", [0, 10, 60, 0.9])
def test_a_damaged_file_is_refused(kept, tmp_path):
    state = {"x": tensor("1", "FloatStorage", 6, (6,), (1,))}
    path = write(tmp_path / "x.pth", state, {"1": np.zeros(6, "<f4")})
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(TorchFileError):
        read_tensors(path)
