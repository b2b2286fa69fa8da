"""What a compiler expands into many instructions, against numpy: division, calls with frames, wide constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from updp_rt.emulator import Module
from updp_rt.kernels.hip.compilers import find_compiler

COUNT = 1 << 15


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    target = tmp_path_factory.mktemp("code") / "compiled.hsaco"
    find_compiler("gfx908").compile(Path(__file__).with_name("compiled.hip"), target)
    return Module(target)


def extreme(rng: np.random.Generator, digits: int, exponents: int, bits: type[np.unsignedinteger]) -> np.ndarray:
    """Floats as bits: any mantissa and sign, exponents often near either end, the subnormal one included."""
    last = 2**exponents - 1
    ends = np.where(rng.random(COUNT) < 0.5, rng.integers(0, 4, COUNT), rng.integers(last - 4, last, COUNT))
    exponent = np.where(rng.random(COUNT) < 0.6, ends, rng.integers(0, last, COUNT)).astype(bits)
    mantissa = rng.integers(0, 2**digits, COUNT, dtype=bits)
    sign = rng.integers(0, 2, COUNT).astype(bits)
    return sign << bits(digits + exponents) | exponent << bits(digits) | mantissa


@pytest.mark.parametrize(
    ("kernel", "dtype", "bits", "digits"),
    [("quotient_f32", np.float32, np.uint32, 23), ("quotient_f64", np.float64, np.uint64, 52)],
)
def test_division_is_rounded_correctly(
    module: Module, kernel: str, dtype: type[np.floating], bits: type[np.unsignedinteger], digits: int
) -> None:
    rng = np.random.default_rng(0)
    exponents = 8 * np.dtype(dtype).itemsize - 1 - digits
    a, b = (extreme(rng, digits, exponents, bits).view(dtype) for _ in range(2))
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0], dtype)
    a[:36], b[:36] = np.repeat(special, 6), np.tile(special, 6)
    out = np.zeros_like(a)
    module.launch(kernel, COUNT // 64, 64, a, b, out)
    with np.errstate(all="ignore"):
        wanted = a / b
    np.testing.assert_array_equal(np.isnan(out), np.isnan(wanted))
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(out.view(bits)[numbers], wanted.view(bits)[numbers])
    assert (np.abs(wanted[numbers]) < np.finfo(dtype).tiny).mean() > 0.05, "too few results are subnormal"


@pytest.mark.parametrize(("kernel", "dtype"), [("quotient_u32", np.uint32), ("quotient_i64", np.int64)])
def test_integer_division(module: Module, kernel: str, dtype: type[np.integer]) -> None:
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    a, b = (
        rng.integers(limits.min, limits.max, COUNT, dtype, endpoint=True) >> rng.integers(0, limits.bits, COUNT, dtype)
        for _ in range(2)
    )
    b[b == 0] = 1
    a[:3], b[:3] = (limits.max, limits.min, limits.max), (1, 3, limits.max)
    out = np.zeros_like(a)
    module.launch(kernel, COUNT // 64, 64, a, b, out)
    towards_zero = (a % b != 0) & ((a < 0) != (b < 0))  # where numpy rounds down
    np.testing.assert_array_equal(out, a // b + towards_zero.astype(dtype))


def test_functions_have_frames_of_their_own(module: Module) -> None:
    x, out = np.arange(128, dtype=np.int32), np.zeros(128, np.int32)
    assert module.kernels["frames"].scratch_bytes >= 3 * 64
    module.launch("frames", 2, 64, x, out)
    np.testing.assert_array_equal(out, 2 * (x + x % 16) ** 2 + 2 * (x + (x + 1) % 16))


def test_wide_constants(module: Module) -> None:
    x = np.array([0, 0x80000000, 0x80000001, 2**63, 2**64 - 2**31, 2**64 - 2**31 - 1] * 11, np.uint64)[:64]
    out, least = np.zeros(64, np.uint64), np.zeros(64, np.int64)
    module.launch("wide_constants", 1, 64, x, out, least)
    np.testing.assert_array_equal(out, np.where(x > np.uint64(0x80000000), 0xDEADBEEF, 0x123456789AB))
    np.testing.assert_array_equal(least, np.where(x.view(np.int64) < -0x80000000, -0x7FFFFFFF, 0x7FFFFFFF))


@pytest.mark.parametrize("kernel", ["late_read", "kept_read"])
def test_shows_reads_that_clang_moves_beyond_a_barrier(module: Module, kernel: str) -> None:
    mnemonics = [line.mnemonic for line in module.disassemble(kernel)]
    read = next(place for place, mnemonic in enumerate(mnemonics) if mnemonic.startswith("ds_read"))
    moved = mnemonics[:read].count("s_barrier") == 2
    assert not (moved and kernel == "kept_read")
    x = np.arange(7, 135, dtype=np.uint32)
    for waves in ("forward", "backward"):
        out = np.zeros(128, np.uint32)
        module.launch(kernel, 1, 128, x, out, 3, waves=waves)
        assert np.array_equal(out, np.tile(x[:64], 2)) == (not moved)
