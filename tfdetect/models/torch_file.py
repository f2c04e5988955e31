"""Reads tensors from PyTorch's legacy files without PyTorch and without running their code."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfdetect.core.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "LongStorage": np.int64, "IntStorage": np.int32, "ByteStorage": np.uint8,
}  # fmt: skip


def read_legacy_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file that `torch.save` wrote before PyTorch 1.6.

    Only tensors, ordered dictionaries and plain values can be in it: any other object that the
    file asks for is refused.

    Args:
        path: a .pth file.

    Returns:
        Tensors by name, in the file's order.

    Raises:
        UserError: the file cannot be read as such.
    """
    try:
        with open(path, "rb") as file:
            if _Unpickler(file).load() != _MAGIC:
                raise ValueError("not a legacy PyTorch file")
            _Unpickler(file).load()  # version of the protocol
            _Unpickler(file).load()  # sizes of types on the machine that wrote it
            reader = _Unpickler(file)
            state = reader.load()
            for key in _Unpickler(file).load():
                reader.fill(key, file)
    except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as PyTorch weights: {error}") from error
    return {name: tensor() for name, tensor in state.items()}


class _Storage:
    """The numbers that tensors are views of."""

    def __init__(self, kind: str, count: int):
        self.dtype, self.count = np.dtype(_TYPES[kind]), count
        self.values = np.empty(0, self.dtype)


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __call__(self) -> np.ndarray:
        values = self.storage.values
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride) if n)
        if self.offset < 0 or min(self.stride, default=0) < 0 or last >= len(values):
            raise UserError("The PyTorch weights refer to numbers that are not in the file.")
        strides = [s * values.itemsize for s in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Unpickles nothing but tensors."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of weights")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, count, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown object {kind!r}")
        return self._storages.setdefault(key, _Storage(name, count))

    def fill(self, key: str, file: BinaryIO) -> None:
        """Read the numbers of one storage; storages follow each other."""
        storage = self._storages[key]
        (count,) = np.frombuffer(file.read(8), np.int64)
        data = file.read(int(count) * storage.dtype.itemsize)
        if count != storage.count or len(data) != count * storage.dtype.itemsize:
            raise ValueError("the file is cut off")
        storage.values = np.frombuffer(data, storage.dtype)
