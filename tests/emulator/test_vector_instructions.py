"""Vector instructions, one at a time, against numpy, over special values. Modifiers: test_modifiers.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from tests.emulator.assembly import LANES, Wave, execute, kernels_of
from tests.emulator.bits import (
    Words,
    double,
    inputs,
    low,
    of_half,
    of_single,
    same,
    signed,
    single,
)

F64 = np.float64
LANE = np.arange(LANES)
U32, I32, U64, I64 = np.uint32, np.int32, np.uint64, np.int64
Meaning = Callable[..., np.ndarray]


def clipped(values: np.ndarray, kind: type) -> np.ndarray:
    """Conversion to an integer as the instruction set has it: NaN is 0, the rest the nearest there is."""
    limits = np.iinfo(kind)
    whole = np.trunc(np.nan_to_num(values.astype(F64), nan=0.0, posinf=1e30, neginf=-1e30))
    return np.clip(whole, limits.min, limits.max).astype(I64).astype(kind)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of singles, rounded once but for rare ties (extended precision)."""
    with np.errstate(all="ignore"):
        return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float32)


def fused_half(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)).astype(np.float16)


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A NaN loses; -0 is less than 0."""
    return np.where(a == b, np.where(np.signbit(a), a, b), np.fmin(a, b))


# Singles: name and operands; what numpy says of a = v1, b = v2, c = v3, d = what v10 held. Results are singles.
SINGLES: dict[str, Meaning] = {
    "v_add_f32 v10, v1, v2": lambda a, b, c, d: a + b,
    "v_sub_f32 v10, v1, v2": lambda a, b, c, d: a - b,
    "v_subrev_f32 v10, v1, v2": lambda a, b, c, d: b - a,
    "v_mul_f32 v10, v1, v2": lambda a, b, c, d: a * b,
    "v_min_f32 v10, v1, v2": lambda a, b, c, d: smaller(a, b),
    "v_max_f32 v10, v1, v2": lambda a, b, c, d: -smaller(-a, -b),
    "v_min3_f32 v10, v1, v2, v3": lambda a, b, c, d: smaller(smaller(a, b), c),
    "v_med3_f32 v10, v1, 0, 1.0": lambda a, b, c, d: np.clip(np.nan_to_num(a, nan=0, posinf=2, neginf=-1), 0, 1) + 0,
    "v_mul_legacy_f32 v10, v1, v2": lambda a, b, c, d: np.where((a == 0) | (b == 0), np.float32(0), a * b),
    "v_mac_f32 v10, v1, v2": lambda a, b, c, d: a * b + d,
    "v_fmac_f32 v10, v1, v2": lambda a, b, c, d: fused(a, b, d),
    "v_mad_f32 v10, v1, v2, v3": lambda a, b, c, d: a * b + c,
    "v_fma_f32 v10, v1, v2, v3": lambda a, b, c, d: fused(a, b, c),
    "v_madmk_f32 v10, v1, 0x41200000, v2": lambda a, b, c, d: a * np.float32(10) + b,
    "v_madak_f32 v10, v1, v2, 0x41200000": lambda a, b, c, d: a * b + np.float32(10),
    "v_trunc_f32 v10, v1": lambda a, b, c, d: np.trunc(a),
    "v_ceil_f32 v10, v1": lambda a, b, c, d: np.ceil(a),
    "v_floor_f32 v10, v1": lambda a, b, c, d: np.floor(a),
    "v_rndne_f32 v10, v1": lambda a, b, c, d: np.rint(a),
    "v_fract_f32 v10, v1": lambda a, b, c, d: a - np.floor(a),
    "v_rcp_f32 v10, v1": lambda a, b, c, d: np.float32(1) / a,
    "v_sqrt_f32 v10, v1": lambda a, b, c, d: np.sqrt(a),
    "v_cvt_f32_f16 v10, v1": lambda a, b, c, d: low(a.view(U32)).astype(np.float32),
    "v_cvt_f32_i32 v10, v1": lambda a, b, c, d: a.view(I32).astype(np.float32),
    "v_cvt_f32_u32 v10, v1": lambda a, b, c, d: a.view(U32).astype(np.float32),
    "v_cvt_f32_ubyte2 v10, v1": lambda a, b, c, d: (a.view(U32) >> 16 & 255).astype(np.float32),
    "v_ldexp_f32 v10, v1, 3": lambda a, b, c, d: a * np.float32(8),
    "v_frexp_mant_f32 v10, v1": lambda a, b, c, d: np.where(np.isfinite(a), np.frexp(a)[0], a),
    "v_add_f32 v10, -v1, |v2|": lambda a, b, c, d: abs(b) - a,
    "v_mul_f32 v10, v1, v2 mul:2": lambda a, b, c, d: a * b * np.float32(2),
    "v_mul_f32 v10, v1, v2 div:2": lambda a, b, c, d: a * b * np.float32(0.5),
    "v_add_f32 v10, v1, v2 clamp": lambda a, b, c, d: np.clip(np.nan_to_num(a + b, nan=0, posinf=2, neginf=-1), 0, 1),
    "v_add_f32 v10, 0.15915494, v2": lambda a, b, c, d: np.float32(0.15915494) + b,
    "v_cndmask_b32 v10, v1, -v2, s[10:11]": lambda a, b, c, d: a,
}

# The same for integers: unsigned words a, b, c, d to a word.
INTEGERS: dict[str, Meaning] = {
    "v_mov_b32 v10, v1": lambda a, b, c, d: a,
    "v_not_b32 v10, v1": lambda a, b, c, d: ~a,
    "v_add_u32 v10, v1, v2": lambda a, b, c, d: a + b,
    "v_sub_u32 v10, v1, v2": lambda a, b, c, d: a - b,
    "v_subrev_u32 v10, v1, v2": lambda a, b, c, d: b - a,
    "v_add_u32 v10, v1, v2 clamp": lambda a, b, c, d: np.minimum(a.astype(U64) + b, 2**32 - 1),
    "v_sub_u32 v10, v1, v2 clamp": lambda a, b, c, d: np.maximum(a.astype(I64) - b, 0),
    "v_add_i32 v10, v1, v2 clamp": lambda a, b, c, d: (
        np.clip(signed(a).astype(I64) + signed(b), -(2**31), 2**31 - 1).astype(I32).view(U32)
    ),
    "v_mul_lo_u32 v10, v1, v2": lambda a, b, c, d: a * b,
    "v_mul_hi_u32 v10, v1, v2": lambda a, b, c, d: a.astype(U64) * b >> 32,
    "v_mul_hi_i32 v10, v1, v2": lambda a, b, c, d: signed(a).astype(I64) * signed(b) >> 32,
    "v_mul_u32_u24 v10, v1, v2": lambda a, b, c, d: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "v_mul_i32_i24 v10, v1, v2": lambda a, b, c, d: (signed(a << 8) >> 8) * (signed(b << 8) >> 8),
    "v_mad_u32_u24 v10, v1, v2, v3": lambda a, b, c, d: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c,
    "v_and_b32 v10, v1, v2": lambda a, b, c, d: a & b,
    "v_xnor_b32 v10, v1, v2": lambda a, b, c, d: ~(a ^ b),
    "v_lshlrev_b32 v10, v1, v2": lambda a, b, c, d: b << (a & 31),
    "v_lshrrev_b32 v10, v1, v2": lambda a, b, c, d: b >> (a & 31),
    "v_ashrrev_i32 v10, v1, v2": lambda a, b, c, d: signed(b) >> (a & 31).astype(I32),
    "v_min_i32 v10, v1, v2": lambda a, b, c, d: np.minimum(signed(a), signed(b)),
    "v_max_u32 v10, v1, v2": lambda a, b, c, d: np.maximum(a, b),
    "v_med3_i32 v10, v1, v2, v3": lambda a, b, c, d: np.median([signed(a), signed(b), signed(c)], 0).astype(I64),
    "v_add3_u32 v10, v1, v2, v3": lambda a, b, c, d: a + b + c,
    "v_lshl_add_u32 v10, v1, 7, v3": lambda a, b, c, d: (a << 7) + c,
    "v_add_lshl_u32 v10, v1, v2, 3": lambda a, b, c, d: (a + b) << 3,
    "v_lshl_or_b32 v10, v1, 9, v3": lambda a, b, c, d: a << 9 | c,
    "v_and_or_b32 v10, v1, v2, v3": lambda a, b, c, d: a & b | c,
    "v_or3_b32 v10, v1, v2, v3": lambda a, b, c, d: a | b | c,
    "v_xad_u32 v10, v1, v2, v3": lambda a, b, c, d: (a ^ b) + c,
    "v_bfi_b32 v10, v1, v2, v3": lambda a, b, c, d: a & b | ~a & c,
    "v_bfe_u32 v10, v1, 5, 9": lambda a, b, c, d: a >> 5 & 511,
    "v_bfe_i32 v10, v1, 5, 9": lambda a, b, c, d: signed(a << 18) >> 23,
    "v_bfe_u32 v10, v1, 5, 0": lambda a, b, c, d: a & 0,
    "v_bfm_b32 v10, 5, 3": lambda a, b, c, d: a & 0 | 0xF8,
    "v_alignbit_b32 v10, v1, v2, 16": lambda a, b, c, d: a << 16 | b >> 16,
    "v_alignbyte_b32 v10, v1, v2, 3": lambda a, b, c, d: a << 8 | b >> 24,
    "v_bcnt_u32_b32 v10, v1, v2": lambda a, b, c, d: np.array([int(x).bit_count() for x in a], U32) + b,
    "v_mbcnt_lo_u32_b32 v10, v1, v2": lambda a, b, c, d: (
        b + np.array([(int(x) & (1 << min(n, 32)) - 1).bit_count() for n, x in enumerate(a)], U32)
    ),
    "v_mbcnt_hi_u32_b32 v10, v1, v2": lambda a, b, c, d: (
        b + np.array([(int(x) & (1 << max(n - 32, 0)) - 1).bit_count() for n, x in enumerate(a)], U32)
    ),
    "v_bfrev_b32 v10, v1": lambda a, b, c, d: np.array([int(f"{x:032b}"[::-1], 2) for x in a], U32),
    "v_ffbh_u32 v10, v1": lambda a, b, c, d: np.array([32 - int(x).bit_length() if x else 2**32 - 1 for x in a], U32),
    "v_ffbl_b32 v10, v1": lambda a, b, c, d: np.array(
        [(int(x) & -int(x)).bit_length() - 1 if x else 2**32 - 1 for x in a]
    ),
    "v_sad_u32 v10, v1, v2, v3": lambda a, b, c, d: abs(a.astype(I64) - b) + c,
    "v_sad_u8 v10, v1, v2, v3": lambda a, b, c, d: (
        c + sum(abs((a >> 8 * i & 255).astype(I64) - (b >> 8 * i & 255)) for i in range(4))
    ),
    "v_cvt_pk_u16_u32 v10, v1, v2": lambda a, b, c, d: np.minimum(a, 65535) | np.minimum(b, 65535) << 16,
    "v_cvt_pk_i16_i32 v10, v1, v2": lambda a, b, c, d: (
        (np.clip(signed(a), -32768, 32767) & 0xFFFF) | (np.clip(signed(b), -32768, 32767) & 0xFFFF) << 16
    ),
    "v_dot4_i32_i8 v10, v1, v2, v3": lambda a, b, c, d: (
        c + sum((signed(a << 24 - 8 * i) >> 24) * (signed(b << 24 - 8 * i) >> 24) for i in range(4))
    ),
    "v_dot8_u32_u4 v10, v1, v2, v3": lambda a, b, c, d: (
        c + sum((a >> 4 * i & 15) * (b >> 4 * i & 15) for i in range(8))
    ),
    "v_dot2_i32_i16 v10, v1, v2, v3": lambda a, b, c, d: (
        c + (signed(a << 16) >> 16) * (signed(b << 16) >> 16) + (signed(a) >> 16) * (signed(b) >> 16)
    ),
    "v_dot4c_i32_i8 v10, v1, v2": lambda a, b, c, d: (
        d + sum((signed(a << 24 - 8 * i) >> 24) * (signed(b << 24 - 8 * i) >> 24) for i in range(4))
    ),
    "v_add_u16 v10, v1, v2": lambda a, b, c, d: a + b & 0xFFFF,
    "v_mul_lo_u16 v10, v1, v2": lambda a, b, c, d: a * b & 0xFFFF,
    "v_ashrrev_i16 v10, v1, v2": lambda a, b, c, d: signed(b << 16) >> 16 + (a & 15).astype(I32) & 0xFFFF,
    "v_mad_legacy_u16 v10, v1, v2, v3": lambda a, b, c, d: a * b + c & 0xFFFF,
    "v_mad_u16 v10, v1, v2, v3": lambda a, b, c, d: d & 0xFFFF0000 | a * b + c & 0xFFFF,
    "v_pk_add_u16 v10, v1, v2": lambda a, b, c, d: a + b & 0xFFFF | (a >> 16) + (b >> 16) << 16,
    "v_pk_lshlrev_b16 v10, v1, v2": lambda a, b, c, d: (
        (b & 0xFFFF) << (a & 15) & 0xFFFF | b >> 16 << 16 + (a >> 16 & 15)
    ),
    "v_pk_mad_u16 v10, v1, v2, v3": lambda a, b, c, d: a * b + c & 0xFFFF | (a >> 16) * (b >> 16) + (c >> 16) << 16,
    "v_pack_b32_f16 v10, v1, v2": lambda a, b, c, d: a & 0xFFFF | b << 16,
    "v_swap_b32 v10, v1": lambda a, b, c, d: a,
    "v_accvgpr_write_b32 a3, v1; s_nop 1; v_accvgpr_read_b32 v10, a3": lambda a, b, c, d: a,
}

# Low halves a, b, c; d as a word. Results are words.
HALVES: dict[str, Meaning] = {
    "v_add_f16 v10, v1, v2": lambda a, b, c, d: of_half(a + b),
    "v_mul_f16 v10, v1, v2": lambda a, b, c, d: of_half(a * b),
    "v_mac_f16 v10, v1, v2": lambda a, b, c, d: of_half(a * b + low(d)),
    "v_fma_f16 v10, v1, v2, v3": lambda a, b, c, d: d & 0xFFFF0000 | of_half(fused_half(a, b, c)),
    "v_fma_legacy_f16 v10, v1, v2, v3": lambda a, b, c, d: of_half(fused_half(a, b, c)),
    "v_mad_f16 v10, v1, v2, v3": lambda a, b, c, d: d & 0xFFFF0000 | of_half(a * b + c),
    "v_sqrt_f16 v10, v1": lambda a, b, c, d: of_half(np.sqrt(a)),
    "v_rcp_f16 v10, v1": lambda a, b, c, d: of_half(np.float16(1) / a),
    "v_floor_f16 v10, v1": lambda a, b, c, d: of_half(np.floor(a)),
}


def outcome(table: Iterable[str], text: str, words: Words) -> Wave:
    """What `text`, one of the table's, leaves behind. A table's instructions are assembled together, once."""
    texts = tuple(table)
    return execute(kernels_of(texts), texts.index(text), words)


@pytest.mark.parametrize("text", SINGLES)
def test_single_precision(text: str):
    words = inputs("ffffffff")
    words[:2, :2] = of_single(np.array([[0.0, -0.0], [-0.0, 0.0]]))
    a, b, c, d = (single(words[row]) for row in (0, 1, 2, 6))
    with np.errstate(all="ignore"):
        wanted = np.asarray(SINGLES[text](a, b, c, d), np.float32)
    assert same(single(outcome(SINGLES, text, words).v10), wanted)


@pytest.mark.parametrize("text", INTEGERS)
def test_integers(text: str):
    words = inputs("iiiiiiii")
    a, b, c, d = words[0], words[1], words[2], words[6]
    with np.errstate(all="ignore"):
        wanted = np.asarray(INTEGERS[text](a, b, c, d)).astype(I64).astype(U32)
    assert np.array_equal(outcome(INTEGERS, text, words).v10, wanted)


@pytest.mark.parametrize("text", HALVES)
def test_half_precision(text: str):
    words = inputs("hhhhhhhh")
    a, b, c = (low(words[row]) for row in range(3))
    with np.errstate(all="ignore"):
        wanted = HALVES[text](a, b, c, words[6])
    found = outcome(HALVES, text, words).v10
    assert same(low(found), low(wanted))
    assert np.array_equal(found >> 16, wanted >> 16)


# Doubles in v[1:2], v[3:4], v[5:6]; the result in v[10:11].
DOUBLES: dict[str, Meaning] = {
    "v_add_f64 v[10:11], v[1:2], v[3:4]": lambda a, b, c: a + b,
    "v_mul_f64 v[10:11], v[1:2], -v[3:4]": lambda a, b, c: a * -b,
    "v_max_f64 v[10:11], v[1:2], |v[3:4]|": lambda a, b, c: np.maximum(a, abs(b)),
    "v_min_f64 v[10:11], v[1:2], 1.0": lambda a, b, c: np.minimum(a, 1),
    "v_fma_f64 v[10:11], v[1:2], 2.0, v[5:6]": lambda a, b, c: a * 2 + c,
    "v_add_f64 v[10:11], v[1:2], v[3:4] clamp": lambda a, b, c: np.clip(a + b, 0, 1),
    "v_floor_f64 v[10:11], v[1:2]": lambda a, b, c: np.floor(a),
    "v_ldexp_f64 v[10:11], v[1:2], -3": lambda a, b, c: a / 8,
    "v_cvt_f64_f32 v[10:11], v1": lambda a, b, c: single(a.view(U32)[::2]).astype(F64),
    "v_cvt_f64_i32 v[10:11], v2": lambda a, b, c: a.view(U32)[1::2].view(I32).astype(F64),
    "v_rcp_f64 v[10:11], v[1:2]": lambda a, b, c: 1 / a,
}


@pytest.mark.parametrize("text", DOUBLES)
def test_double_precision(text: str):
    words = inputs("d-d-d-ii")
    values = [double(words[row], words[row + 1]) for row in (0, 2, 4)]
    assert same(outcome(DOUBLES, text, words).v10_11.view(F64), DOUBLES[text](*values))


LONGS: dict[str, Meaning] = {
    "v_lshlrev_b64 v[10:11], v5, v[1:2]": lambda a, b, s: a << (s & 63),
    "v_lshrrev_b64 v[10:11], v5, v[1:2]": lambda a, b, s: a >> (s & 63),
    "v_ashrrev_i64 v[10:11], v5, v[1:2]": lambda a, b, s: a.view(I64) >> (s & 63).astype(I64),
    "v_mad_u64_u32 v[10:11], s[10:11], v1, v5, v[3:4]": lambda a, b, s: (a & 0xFFFFFFFF) * s + b,
    "v_mad_i64_i32 v[10:11], s[10:11], v1, v5, v[3:4]": lambda a, b, s: (
        signed(a.astype(U32)).astype(I64) * signed(s.astype(U32)) + b.view(I64)
    ),
    # The result overlaps a source's other register.
    "v_mov_b32 v9, v1; v_mov_b32 v10, v2; v_lshlrev_b64 v[10:11], 4, v[9:10]": lambda a, b, s: a << U64(4),
}


@pytest.mark.parametrize("text", LONGS)
def test_64_bit_integers(text: str):
    words = inputs("iiiiii")
    a, b = (words[row] | words[row + 1].astype(U64) << U64(32) for row in (0, 2))
    with np.errstate(all="ignore"):
        wanted = np.asarray(LONGS[text](a, b, words[4].astype(U64))).view(U64)
    assert np.array_equal(outcome(LONGS, text, words).v10_11, wanted)


CONVERSIONS: dict[str, Meaning] = {
    "v_cvt_i32_f32 v10, v1": lambda f: clipped(f, I32).view(U32),
    "v_cvt_u32_f32 v10, v1": lambda f: clipped(f, U32),
    "v_cvt_rpi_i32_f32 v10, v1": lambda f: clipped(np.floor(f.astype(F64) + 0.5), I32).view(U32),
    "v_cvt_flr_i32_f32 v10, v1": lambda f: clipped(np.floor(f), I32).view(U32),
    "v_cvt_f16_f32 v10, -v1": lambda f: of_half(-f),
    "v_frexp_exp_i32_f32 v10, v1": lambda f: (
        np.where(np.isfinite(f) & (f != 0), np.frexp(f)[1], 0).astype(I32).view(U32)
    ),
}


@pytest.mark.parametrize("text", CONVERSIONS)
def test_conversions(text: str):
    words = inputs("ff")
    words[0, :6] = of_single(np.array([2.0**31, -(2.0**31), 2.0**32, -0.5, 4294967040.0, -2147483904.0]))
    with np.errstate(all="ignore"):
        wanted = CONVERSIONS[text](single(words[0]))
    found = outcome(CONVERSIONS, text, words).v10
    both_nan = np.isnan(low(found)) & np.isnan(low(wanted)) if "f16" in text else np.zeros(LANES, bool)
    assert np.array_equal(found[~both_nan], wanted[~both_nan])


CONDITIONS: dict[str, Meaning] = {
    "f": lambda a, b: np.zeros(LANES, bool),
    "lt": np.less,
    "eq": np.equal,
    "le": np.less_equal,
    "gt": np.greater,
    "lg": lambda a, b: (a < b) | (a > b),
    "ge": np.greater_equal,
    "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "u": lambda a, b: np.isnan(a) | np.isnan(b),
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
    "ngt": lambda a, b: ~(a > b),
    "nle": lambda a, b: ~(a <= b),
    "neq": lambda a, b: ~(a == b),
    "nlt": lambda a, b: ~(a < b),
    "tru": lambda a, b: np.ones(LANES, bool),
    "ne": np.not_equal,
    "t": lambda a, b: np.ones(LANES, bool),
}
FLOAT_CONDITIONS = [condition for condition in CONDITIONS if condition not in ("ne", "t")]
INTEGER_CONDITIONS = ["f", "lt", "eq", "le", "gt", "ne", "ge", "t"]
READ: dict[str, Callable[[Words, Words], np.ndarray]] = {
    "f16": lambda word, _: low(word),
    "f32": lambda word, _: single(word),
    "f64": double,
    "i16": lambda word, _: signed(word << 16) >> 16,
    "u16": lambda word, _: word & 0xFFFF,
    "i32": lambda word, _: signed(word),
    "u32": lambda word, _: word,
    "i64": lambda word, upper: (word | upper.astype(U64) << U64(32)).view(I64),
    "u64": lambda word, upper: word | upper.astype(U64) << U64(32),
}
COMPARISONS = [
    (condition, kind) for kind in READ for condition in (FLOAT_CONDITIONS if kind[0] == "f" else INTEGER_CONDITIONS)
]


def comparison(condition: str, kind: str) -> str:
    operands = "v[1:2], v[3:4]" if kind.endswith("64") else "v1, v3"
    return f"v_cmp_{condition}_{kind} s[10:11], {operands}"


COMPARE = [comparison(*each) for each in COMPARISONS]


@pytest.mark.parametrize(("condition", "kind"), COMPARISONS)
def test_comparisons(condition: str, kind: str):
    words = inputs({"f16": "hihi", "f32": "fifi", "f64": "d-d-"}.get(kind, "iiii"))
    words[2:4, ::3] = words[0:2, ::3]  # some are equal
    wanted = CONDITIONS[condition](READ[kind](words[0], words[1]), READ[kind](words[2], words[3]))
    found = outcome(COMPARE, comparison(condition, kind), words)
    assert found.s10_11 == sum(1 << lane for lane in range(LANES) if wanted[lane])
