"""Scalar instructions, one at a time, against Python's integers, over special values; jumps and calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.assembly import LANES, Wave, execute, kernels_of

W, L = 1 << 32, 1 << 64
VALUES = [0, 1, 2, 31, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xFEDCBA98]
LONGS = [0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFFFFFFFFFF, 1 << 63, L - 1, 0x0123456789ABCDEF]
Outcome = tuple[int, int | bool]  # result, and scc
ANY = None  # scc as it was, which is 1


def i32(value: int) -> int:
    return (value & W - 1 ^ 1 << 31) - (1 << 31)


def i64(value: int) -> int:
    return (value & L - 1 ^ 1 << 63) - (1 << 63)


def flagged(value: int) -> Outcome:
    return value, value != 0


def overflow(value: int) -> Outcome:
    return value % W, value != i32(value)


def field(value: int, where: int, width: int, signed: bool) -> int:
    first, count = where & width - 1, where >> 16 & 127
    if count == 0:
        return 0
    value = (i64(value) if width == 64 else i32(value)) if signed else value
    bits = value >> first
    count = min(count, width - first) if signed else count
    bits &= (1 << count) - 1
    return bits - (1 << count) if signed and bits >> count - 1 else bits


# With a in s14, b in s15 and scc = 1; the result is in s10.
WORDS: dict[str, Callable[[int, int], tuple[int, int | bool | None]]] = {
    "s_add_u32": lambda a, b: ((a + b) % W, a + b >= W),
    "s_sub_u32": lambda a, b: ((a - b) % W, b > a),
    "s_addc_u32": lambda a, b: ((a + b + 1) % W, a + b + 1 >= W),
    "s_subb_u32": lambda a, b: ((a - b - 1) % W, b + 1 > a),
    "s_add_i32": lambda a, b: overflow(i32(a) + i32(b)),
    "s_sub_i32": lambda a, b: overflow(i32(a) - i32(b)),
    "s_min_i32": lambda a, b: (a if i32(a) < i32(b) else b, i32(a) < i32(b)),
    "s_max_i32": lambda a, b: (a if i32(a) > i32(b) else b, i32(a) > i32(b)),
    "s_min_u32": lambda a, b: (min(a, b), a < b),
    "s_max_u32": lambda a, b: (max(a, b), a > b),
    "s_cselect_b32": lambda a, b: (a, ANY),
    "s_and_b32": lambda a, b: flagged(a & b),
    "s_or_b32": lambda a, b: flagged(a | b),
    "s_xor_b32": lambda a, b: flagged(a ^ b),
    "s_andn2_b32": lambda a, b: flagged(a & ~b),
    "s_orn2_b32": lambda a, b: flagged((a | ~b) % W),
    "s_nand_b32": lambda a, b: flagged(~(a & b) % W),
    "s_nor_b32": lambda a, b: flagged(~(a | b) % W),
    "s_xnor_b32": lambda a, b: flagged(~(a ^ b) % W),
    "s_lshl_b32": lambda a, b: flagged((a << (b & 31)) % W),
    "s_lshr_b32": lambda a, b: flagged(a >> (b & 31)),
    "s_ashr_i32": lambda a, b: flagged(i32(a) >> (b & 31)),
    "s_bfm_b32": lambda a, b: (((1 << (a & 31)) - 1 << (b & 31)) % W, ANY),
    "s_mul_i32": lambda a, b: (a * b % W, ANY),
    "s_mul_hi_u32": lambda a, b: (a * b >> 32, ANY),
    "s_mul_hi_i32": lambda a, b: (i32(a) * i32(b) >> 32, ANY),
    "s_bfe_u32": lambda a, b: flagged(field(a, b, 32, False)),
    "s_bfe_i32": lambda a, b: flagged(field(a, b, 32, True)),
    "s_absdiff_i32": lambda a, b: flagged(abs(i32(i32(a) - i32(b)))),
    "s_lshl2_add_u32": lambda a, b: (((a << 2) + b) % W, (a << 2) + b >= W),
    "s_pack_ll_b32_b16": lambda a, b: (a & 0xFFFF | b << 16, ANY),
    "s_pack_lh_b32_b16": lambda a, b: (a & 0xFFFF | b & 0xFFFF0000, ANY),
    "s_pack_hh_b32_b16": lambda a, b: (a >> 16 | b & 0xFFFF0000, ANY),
}

UNARY: dict[str, Callable[[int], tuple[int, int | bool | None]]] = {
    "s_mov_b32": lambda a: (a, ANY),
    "s_cmov_b32": lambda a: (a, ANY),
    "s_not_b32": lambda a: flagged(~a % W),
    "s_brev_b32": lambda a: (int(f"{a:032b}"[::-1], 2), ANY),
    "s_bcnt0_i32_b32": lambda a: flagged(32 - a.bit_count()),
    "s_bcnt1_i32_b32": lambda a: flagged(a.bit_count()),
    "s_ff0_i32_b32": lambda a: ((~a & a + 1).bit_length() - 1 if a != W - 1 else -1, ANY),
    "s_ff1_i32_b32": lambda a: ((a & -a).bit_length() - 1, ANY),
    "s_flbit_i32_b32": lambda a: (32 - a.bit_length() if a else -1, ANY),
    "s_flbit_i32": lambda a: (-1 if i32(a) in (0, -1) else 32 - (a if i32(a) >= 0 else ~i32(a)).bit_length(), ANY),
    "s_sext_i32_i8": lambda a: (i32(a << 24) >> 24, ANY),
    "s_sext_i32_i16": lambda a: (i32(a << 16) >> 16, ANY),
    "s_abs_i32": lambda a: flagged(abs(i32(a)) % W),
    "s_movk_i32 0x8765": lambda a: (0xFFFF8765, ANY),
    "s_quadmask_b32": lambda a: flagged(sum(1 << n for n in range(8) if a >> 4 * n & 15)),
    "s_wqm_b32": lambda a: flagged(sum(15 << 4 * n for n in range(8) if a >> 4 * n & 15)),
}

# Of s[14:15] and s[16:17], into s[10:11]; names with a blank say what the second operand is.
PAIRS: dict[str, Callable[[int, int], tuple[int, int | bool | None]]] = {
    "s_and_b64": lambda a, b: flagged(a & b),
    "s_andn2_b64": lambda a, b: flagged(a & ~b),
    "s_xnor_b64": lambda a, b: flagged(~(a ^ b) % L),
    "s_cselect_b64": lambda a, b: (a, ANY),
    "s_lshl_b64 s16": lambda a, b: flagged((a << (b & 63)) % L),
    "s_lshr_b64 s16": lambda a, b: flagged(a >> (b & 63)),
    "s_ashr_i64 s16": lambda a, b: flagged(i64(a) >> (b & 63)),
    "s_bfe_u64 s16": lambda a, b: flagged(field(a, b, 64, False)),
    "s_bfe_i64 s16": lambda a, b: flagged(field(a, b, 64, True)),
}

COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq_i32": lambda a, b: a == b, "lg_i32": lambda a, b: a != b, "gt_i32": lambda a, b: i32(a) > i32(b),
    "ge_i32": lambda a, b: i32(a) >= i32(b), "lt_i32": lambda a, b: i32(a) < i32(b),
    "le_i32": lambda a, b: i32(a) <= i32(b),
    "eq_u32": lambda a, b: a == b, "lg_u32": lambda a, b: a != b, "gt_u32": lambda a, b: a > b,
    "ge_u32": lambda a, b: a >= b, "lt_u32": lambda a, b: a < b, "le_u32": lambda a, b: a <= b,
}  # fmt: skip


def placed(register: int, value: int) -> str:
    return f"s_mov_b32 s{register}, {value & W - 1:#x}; s_mov_b32 s{register + 1}, {value >> 32:#x}; "


def finish(wave: Wave, wanted: tuple[int, int | bool | None], modulus: int) -> bool:
    result = wave.s10 if modulus == W else wave.s10_11
    return result == wanted[0] % modulus and (wanted[1] is ANY or wave.scc == wanted[1])


SET_SCC = "s_cmp_eq_u32 s0, s0; "


def check(texts: list[str], wanted: list[tuple[int, int | bool | None]], modulus: int) -> None:
    module = kernels_of(tuple(SET_SCC + text for text in texts))
    inputs = np.zeros((8, LANES), np.uint32)
    for index, (text, outcome) in enumerate(zip(texts, wanted, strict=True)):
        wave = execute(module, index, inputs)
        assert finish(wave, outcome, modulus), (text, hex(wave.s10_11), wave.scc, outcome)


@pytest.mark.parametrize("name", WORDS)
def test_two_words(name: str):
    chosen = [*itertools.product(VALUES, VALUES)]
    if name.startswith("s_bfe"):
        chosen = [(a, first | count << 16) for a in VALUES for first in (0, 5, 31) for count in (0, 1, 9, 27, 32, 40)]
    texts = [placed(14, a | b << 32) + f"{name} s10, s14, s15" for a, b in chosen]
    check(texts, [WORDS[name](a, b) for a, b in chosen], W)


@pytest.mark.parametrize("name", UNARY)
def test_one_word(name: str):
    opcode, _, constant = name.partition(" ")
    texts = [placed(14, a) + f"{opcode} s10, {constant or 's14'}" for a in VALUES]
    check(texts, [UNARY[name](a) for a in VALUES], W)


@pytest.mark.parametrize("name", PAIRS)
def test_two_pairs(name: str):
    opcode, _, second = name.partition(" ")
    others = [first | count << 16 for first in (0, 13, 63) for count in (0, 1, 40, 64)] if "bfe" in name else LONGS
    chosen = [*itertools.product(LONGS, others)]
    texts = [placed(14, a) + placed(16, b) + f"{opcode} s[10:11], s[14:15], {second or 's[16:17]'}" for a, b in chosen]
    check(texts, [PAIRS[name](a, b & W - 1 if second else b) for a, b in chosen], L)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name: str):
    chosen = [*itertools.product(VALUES, VALUES)]
    texts = [placed(14, a | b << 32) + f"s_cmp_{name} s14, s15" for a, b in chosen]
    check(texts, [(0, COMPARISONS[name](a, b)) for a, b in chosen], W)


OTHERS: dict[str, tuple[int, int]] = {
    "s_mov_b64 s[10:11], 1.0": (0x3FF0000000000000, 1),
    "s_mov_b64 s[10:11], -2": (L - 2, 1),
    "s_mov_b32 s10, 0.15915494": (0x3E22F983, 1),
    "s_mov_b64 s[10:11], src_shared_base": (0x01000000 << 32, 1),
    "s_mov_b32 s10, 5; s_addk_i32 s10, 0x8000": (5 - 32768 + W, 0),
    "s_mov_b32 s10, 5; s_mulk_i32 s10, -3": (W - 15, 1),
    "s_mov_b32 s10, 5; s_bitset1_b32 s10, 31": (0x80000005, 1),
    "s_mov_b32 s10, 5; s_bitset0_b32 s10, 2": (1, 1),
    "s_movk_i32 s14, -1; s_cmpk_lt_u32 s14, 0xffff; s_cselect_b32 s10, 1, 0": (0, 0),
    "s_movk_i32 s14, -1; s_cmpk_eq_i32 s14, 0xffff; s_cselect_b32 s10, 1, 0": (1, 1),
    "s_mov_b32 s14, 6; s_bitcmp1_b32 s14, 1; s_cselect_b32 s10, 1, 0": (1, 1),
    "s_mov_b64 s[14:15], 12; s_and_saveexec_b64 s[10:11], s[14:15]; s_mov_b64 s[10:11], exec": (12, 1),
    "s_mov_b64 exec, 12; s_mov_b64 s[14:15], 6; s_or_saveexec_b64 s[10:11], s[14:15]": (12, 1),
    "s_mov_b64 exec, 12; s_mov_b64 s[14:15], 6; s_andn2_saveexec_b64 s[16:17], s[14:15];"
    "s_mov_b64 s[10:11], exec": (2, 1),
    "s_mov_b64 exec, 12; s_mov_b64 s[14:15], 6; s_andn1_wrexec_b64 s[10:11], s[14:15]": (8, 1),
    "s_getreg_b32 s10, hwreg(HW_REG_SH_MEM_BASES, 16, 16)": (0x0100, 1),
    "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 3; s_mov_b32 s10, 7": (7, 1),
    "s_mov_b64 vcc, 0; s_cbranch_vccz over; s_mov_b32 s10, 1; over:": (0, 1),
    "s_mov_b64 exec, 0; s_cbranch_execnz past; s_mov_b32 s10, 1; past:": (1, 1),
    "s_call_b64 s[14:15], callee; s_branch after; callee:; s_mov_b32 s10, 3; s_setpc_b64 s[14:15]; after:": (3, 1),
    "s_getpc_b64 s[14:15]; s_add_u32 s14, s14, 20; s_addc_u32 s15, s15, 0; s_mov_b32 s10, 1; s_setpc_b64 s[14:15]; "
    "s_mov_b32 s10, 9; s_cmp_eq_u32 s0, s0": (1, 1),
}  # fmt: skip


@pytest.mark.parametrize("text", OTHERS)
def test_others(text: str):
    result, scc = OTHERS[text]
    check([text], [(result, scc)], L if result >= W else W)
