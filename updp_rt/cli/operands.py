"""A kernel's arguments as text: ``f32:2.5``, ``random:float16:64x32``, ``x.npy``, ``null``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from updp_rt.emulator.arguments import Value

FORMS = "f32:2.5, random:float16:64x32 (or zeros, ones, nan), x.npy, null"

# numpy has no bfloat16; its bits stand in arrays of uint16.
_DTYPES: dict[str, type[np.generic]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
    "float64": np.float64,
    **{f"{sign}int{bits}": getattr(np, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_SHORT = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u"}
_NAMES = {name: name for name in _DTYPES} | {
    _SHORT[name.rstrip("0123456789")] + name.lstrip("bfloatuin"): name for name in _DTYPES
}
_FILLS = ("random", "zeros", "ones", "nan")


@dataclass(frozen=True)
class Operand:
    """One argument: as it was written, the dtype's name (of an array or a number), and what a launch takes."""

    text: str
    dtype: str
    value: Value

    @property
    def array(self) -> np.ndarray[Any, Any] | None:
        """The values as users know them, bfloat16 widened to float32; None if it is not an array."""
        if not isinstance(self.value, np.ndarray):
            return None
        if self.dtype == "bfloat16":
            return (self.value.astype(np.uint32) << 16).view(np.float32)
        return self.value


def parse_operand(text: str, rng: np.random.Generator) -> Operand:
    """Read one argument; ValueError if `text` has none of the forms.

    Random floats are standard normal, random integers from -8 to 8 (unsigned: 0 to 16).
    """
    if text == "null":
        return Operand(text, "", None)
    if text.endswith(".npy"):
        values = np.load(Path(text), allow_pickle=False)
        return Operand(text, values.dtype.name, np.ascontiguousarray(values))
    first, *rest = text.split(":")
    if first in _FILLS and len(rest) == 2:
        dtype = _dtype(rest[0], text)
        return Operand(text, dtype, _encode(_filled(first, dtype, _shape(rest[1], text), rng, text), dtype))
    if first in _NAMES and len(rest) == 1:
        dtype = _dtype(first, text)
        return Operand(text, dtype, _encode(np.array(_number(rest[0], dtype, text)), dtype)[()])
    raise ValueError(f"{text!r} is not an argument; write one of these: {FORMS}")


def _dtype(name: str, text: str) -> str:
    if name not in _NAMES:
        raise ValueError(f"{text!r}: unknown dtype {name!r}; choose among {', '.join(_DTYPES)}")
    return _NAMES[name]


def _shape(sizes: str, text: str) -> tuple[int, ...]:
    parts = sizes.split("x")
    if not all(part.isdigit() for part in parts):
        raise ValueError(f"{text!r}: {sizes!r} is not a shape; write 64 or 64x32")
    return tuple(map(int, parts))


def _filled(fill: str, dtype: str, shape: tuple[int, ...], rng: np.random.Generator, text: str) -> np.ndarray[Any, Any]:
    is_float = "float" in dtype
    if fill == "nan" and not is_float:
        raise ValueError(f"{text!r}: {dtype} has no NaN")
    if fill != "random":
        return np.full(shape, {"zeros": 0.0, "ones": 1.0, "nan": np.nan}[fill])
    if is_float:
        return rng.standard_normal(shape)
    return rng.integers(0 if dtype.startswith("u") else -8, 8 if dtype.startswith("i") else 16, shape, endpoint=True)


def _number(number: str, dtype: str, text: str) -> float | int:
    try:
        if "float" in dtype:
            return float(number)
        value = int(number, 0)
        limits = np.iinfo(_DTYPES[dtype])  # type: ignore[type-var]
    except ValueError:
        raise ValueError(f"{text!r}: {number!r} cannot be read as {dtype}") from None
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{text!r}: {dtype} goes from {limits.min} to {limits.max}")
    return value


def _encode(values: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    if dtype != "bfloat16":
        return values.astype(_DTYPES[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even
