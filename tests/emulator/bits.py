"""Words of 32 bits as the numbers they hold, and as test inputs full of special values."""

from __future__ import annotations

import numpy as np

Words = np.ndarray  # uint32
LANES = 64

SPECIAL_SINGLES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    -1e-45,
    3.4028235e38,
    65504.0,
    2147483648.0,
    0.5,
    1.5,
]
SPECIAL_HALVES = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 6e-8, -6e-8, 65504.0, 0.5, 2.5, 6.1e-5, -65504.0]
SPECIAL_WORDS = [0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 31, 32, 0x8000, 0x7FFF, 0xFFFF]


def single(words: Words) -> np.ndarray:
    return words.astype(np.uint32).view(np.float32)


def low(words: Words) -> np.ndarray:
    """The low halves of words as float16."""
    return (words & 0xFFFF).astype(np.uint16).view(np.float16)


def high(words: Words) -> np.ndarray:
    return low(words >> np.uint32(16))


def signed(words: Words) -> np.ndarray:
    return words.astype(np.uint32).view(np.int32)


def of_single(values: np.ndarray) -> Words:
    return np.asarray(values, np.float32).view(np.uint32)


def of_half(values: np.ndarray) -> Words:
    """Half precision in the low half, zero above."""
    return np.asarray(values, np.float16).view(np.uint16).astype(np.uint32)


def pair(lower: np.ndarray, upper: np.ndarray) -> Words:
    """Half precision in both halves."""
    return of_half(lower) | of_half(upper) << np.uint32(16)


def inputs(kinds: str, seed: int = 0) -> Words:
    """Words ``[8, 64]``: six inputs by kind, then two of the result register's old content.

    Kinds: ``f`` single precision with special values, ``n`` without; ``h`` two halves, ``g`` without special values;
    ``i`` integers; ``d`` and the next kind (``-``): the low and high words of double precision.
    """
    rng = np.random.default_rng(seed)
    result = np.zeros((8, LANES), np.uint32)
    for row, kind in enumerate(kinds.ljust(8, "i")):
        if kind in "fn":
            values = (rng.standard_normal(LANES) * 10.0 ** rng.integers(-3, 4, LANES)).astype(np.float32)
            place = rng.permutation(LANES)[: len(SPECIAL_SINGLES)]
            if kind == "f":
                values[place] = SPECIAL_SINGLES
            result[row] = values.view(np.uint32)
        elif kind in "hg":
            values = (rng.standard_normal((2, LANES)) * 3).astype(np.float16)
            for half in values:
                if kind == "h":
                    half[rng.permutation(LANES)[: len(SPECIAL_HALVES)]] = SPECIAL_HALVES
            result[row] = pair(*values)
        elif kind == "d":
            doubles = rng.standard_normal(LANES) * 10.0 ** rng.integers(-3, 4, LANES)
            result[row : row + 2] = doubles.view(np.uint32).reshape(LANES, 2).T
        elif kind == "i":
            result[row] = rng.integers(0, 1 << 32, LANES, np.uint64).astype(np.uint32)
            result[row, rng.permutation(LANES)[: len(SPECIAL_WORDS)]] = SPECIAL_WORDS
    return result


def double(lower: Words, upper: Words) -> np.ndarray:
    return (lower | upper.astype(np.uint64) << np.uint64(32)).view(np.float64)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal, any NaN counting as any other, and zeros by their sign."""
    nan = np.isnan(wanted)
    return bool(np.array_equal(np.isnan(found), nan) and np.array_equal(found[~nan], wanted[~nan])
                and np.array_equal(np.signbit(found[~nan]), np.signbit(wanted[~nan])))  # fmt: skip
