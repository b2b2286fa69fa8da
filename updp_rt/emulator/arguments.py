"""Python values as a kernel's argument segment, and the memory they let the kernel touch."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from updp_rt.emulator.kernel import Argument, Kernel

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any] | Tensor"
Value: TypeAlias = "Array | np.generic | int | float | bytes | None"

Range: TypeAlias = tuple[int, int, bool]  # begin and end in bytes, and whether it may be written

_FLOATS = {2: "<e", 4: "<f", 8: "<d"}


def pack(kernel: Kernel, values: Sequence[Value]) -> bytes:
    """The argument segment of a launch, hidden arguments left zero.

    Raises:
        ValueError: `values` are too few, too many, or of another type or size than the kernel takes.
    """
    if len(values) != len(kernel.arguments):
        raise ValueError(f"{kernel.signature} takes {len(kernel.arguments)} arguments, not {len(values)}")
    segment = bytearray(kernel.kernarg_bytes)
    for name, argument, value in zip(names(kernel), kernel.arguments, values, strict=True):
        try:
            encoded = _pointer(value) if argument.is_pointer else _by_value(argument, value)
        except ValueError as error:
            raise ValueError(f"{kernel.name}, {name}: {error}") from None
        segment[argument.offset : argument.offset + argument.size] = encoded
    return bytes(segment)


def names(kernel: Kernel) -> list[str]:
    """The kernel's arguments as messages name them, such as ``argument 2 (x)``."""
    return [
        f"argument {position} ({argument.name})" if argument.name else f"argument {position}"
        for position, argument in enumerate(kernel.arguments, start=1)
    ]


def memory(value: Value) -> Range | None:
    """The memory of `value` that a kernel may touch; None if it is not an array.

    That is all that a numpy array's elements span, or a tensor's whole storage.
    """
    if isinstance(value, np.ndarray):
        return (*_span(value), value.flags.writeable)
    if _is_tensor(value):
        storage = value.untyped_storage()
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes(), True
    return None


def _span(array: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The first byte of an array's elements, whatever its strides, and the byte after the last."""
    begin = end = array.ctypes.data
    if array.size == 0:
        return begin, end
    for size, stride in zip(array.shape, array.strides, strict=True):
        reach = (size - 1) * stride
        begin, end = begin + min(reach, 0), end + max(reach, 0)
    return begin, end + array.itemsize


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _pointer(value: Value) -> bytes:
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise ValueError("an array of Python objects has no values a kernel could read")
        address = value.ctypes.data
    elif _is_tensor(value):
        if value.device.type != "cpu":
            raise ValueError(f"the tensor is on {value.device}; the emulator reaches the CPU's memory only")
        address = value.data_ptr()
    elif value is None:
        address = 0
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        address = int(value)
    else:
        raise ValueError(f"a pointer takes an array, a tensor, an address or None, not {_name(value)}")
    return _integer(address, 8)


def _by_value(argument: Argument, value: Value) -> bytes:
    if argument.value_kind != "by_value":
        raise ValueError(f"it is a {argument.value_kind}, which cannot be given here")
    if isinstance(value, np.ndarray) or _is_tensor(value):
        raise ValueError(f"it is a value of {argument.size} bytes, not a pointer; an array does not fit")
    if isinstance(value, (np.generic, bytes)):
        encoded = value if isinstance(value, bytes) else value.tobytes()
        if len(encoded) != argument.size:
            raise ValueError(f"it takes {argument.size} bytes, {_name(value)} has {len(encoded)}")
        return encoded
    if isinstance(value, int):
        return _integer(value, argument.size)
    if isinstance(value, float):
        return _float(value, argument.size)
    raise ValueError(f"it takes a number or bytes, not {_name(value)}")


def _integer(value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size, "little", signed=value < 0)
    except OverflowError:
        raise ValueError(f"{value} does not fit {size} bytes") from None


def _float(value: float, size: int) -> bytes:
    if size not in _FLOATS:
        raise ValueError(f"it has {size} bytes; a float has 2, 4 or 8")
    try:
        return struct.pack(_FLOATS[size], value)
    except OverflowError:
        raise ValueError(f"{value} does not fit a float of {size} bytes") from None


def _name(value: object) -> str:
    kind = type(value)
    return "None" if value is None else f"numpy.{kind.__name__}" if isinstance(value, np.generic) else kind.__name__
