"""Modifiers of vector instructions: op_sel, mixed precision, packed halves, SDWA, DPP, and what crosses lanes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.assembly import LANES, Wave, execute, kernels_of
from tests.emulator.bits import Words, high, inputs, low, of_half, of_single, pair, same, signed, single

F64, U32, I8 = np.float64, np.uint32, np.int8
LANE = np.arange(LANES)
Meaning = Callable[[Words, Words, Words], Words]  # of v1, v2 and what v10 held


def kept(old: Words, half: np.ndarray) -> Words:
    """A half in the low half of the old result."""
    return old & 0xFFFF0000 | of_half(half)


def unit(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 1)


def wide(values: np.ndarray) -> np.ndarray:
    return values.astype(F64)


def shifted_right(words: Words, distance: int) -> Words:
    """Within rows of 16 lanes; 0 comes in."""
    result = np.zeros_like(words)
    inside = distance <= LANE % 16
    result[inside] = words[LANE[inside] - distance]
    return result


# Instruction; meaning; kinds of v1 and v2 (bits.inputs).
CASES: list[tuple[str, Meaning, str]] = [
    # An inline constant of a mix instruction is f16 where its op_sel_hi is 1, else f32.
    ("v_fma_mix_f32 v10, v1, 1.0, v2 op_sel_hi:[1,1,0]", lambda a, b, c: of_single(wide(low(a)) + single(b)), "gn"),
    (
        "v_fma_mix_f32 v10, v1, 1.0, v2 op_sel:[1,0,0] op_sel_hi:[1,1,0]",
        lambda a, b, c: of_single(wide(high(a)) + single(b)),
        "gn",
    ),
    (
        "v_fma_mix_f32 v10, v1, -1.0, |v2| op_sel_hi:[0,1,1]",
        lambda a, b, c: of_single(abs(wide(low(b))) - single(a)),
        "ng",
    ),
    (
        "v_fma_mix_f32 v10, -v1, 0.5, v2 op_sel_hi:[1,0,0]",
        lambda a, b, c: of_single(-wide(low(a)) * 0.5 + single(b)),
        "gn",
    ),
    (
        "v_fma_mix_f32 v10, v1, v2, 0 op_sel_hi:[1,1,0] clamp",
        lambda a, b, c: of_single(unit(wide(low(a)) * low(b))),
        "gg",
    ),
    (
        "v_fma_mixlo_f16 v10, v1, 2.0, v2 clamp",
        lambda a, b, c: kept(c, unit(of_32(wide(single(a)) * 2 + single(b)))),
        "nn",
    ),
    (
        "v_fma_mixhi_f16 v10, v1, v2, 4.0 op_sel_hi:[1,0,1]",
        lambda a, b, c: c & 0xFFFF | of_half(of_32(wide(low(a)) * single(b) + 4)) << 16,
        "gn",
    ),
    # Half precision: op_sel picks halves; some keep the other half of the result, some clear it.
    ("v_fma_f16 v10, v1, v2, v1", lambda a, b, c: kept(c, wide(low(a)) * low(b) + low(a)), "gg"),
    (
        "v_fma_f16 v10, v1, v2, v1 op_sel:[1,0,1,1]",
        lambda a, b, c: c & 0xFFFF | of_half(wide(high(a)) * low(b) + high(a)) << 16,
        "gg",
    ),
    ("v_mad_u16 v10, v1, v2, v1 op_sel:[1,0,0,0]", lambda a, b, c: c & 0xFFFF0000 | (a >> 16) * b + a & 0xFFFF, "ii"),
    ("v_max3_f16 v10, v1, v2, 1.0", lambda a, b, c: kept(c, np.maximum(np.maximum(low(a), low(b)), 1)), "gg"),
    ("v_cvt_f32_f16 v10, -|v1|", lambda a, b, c: of_single(-abs(low(a))), "gg"),
    ("v_cvt_f16_f32 v10, -v1", lambda a, b, c: of_half(-single(a)), "nn"),
    ("v_cvt_pkrtz_f16_f32 v10, 1.0, 2.0", lambda a, b, c: np.full(LANES, 0x40003C00, U32), "nn"),
    ("v_cvt_pkrtz_f16_f32 v10, v1, v2", lambda a, b, c: pair(toward_zero(single(a)), toward_zero(single(b))), "nn"),
    ("v_add_f16 v10, v1, v2 mul:2", lambda a, b, c: of_half((low(a) + low(b)) * np.float16(2)), "gg"),
    ("v_add_f16 v10, v1, v2 clamp", lambda a, b, c: of_half(unit(low(a) + low(b))), "gg"),
    # Packed.
    (
        "v_pk_fma_f16 v10, v1, v2, 1.0 op_sel_hi:[1,1,0]",
        lambda a, b, c: pair(wide(low(a)) * low(b) + 1, wide(high(a)) * high(b) + 1),
        "gg",
    ),
    (
        "v_pk_add_f16 v10, v1, v2 op_sel:[1,0] op_sel_hi:[0,1] neg_hi:[1,0]",
        lambda a, b, c: pair(high(a) + low(b), high(b) - low(a)),
        "gg",
    ),
    ("v_pk_add_f16 v10, v1, v2 clamp", lambda a, b, c: pair(unit(low(a) + low(b)), unit(high(a) + high(b))), "gg"),
    ("v_pk_mul_f16 v10, v1, v2", lambda a, b, c: pair(low(a) * low(b), high(a) * high(b)), "gg"),
    (
        "v_pk_min_f16 v10, v1, v2 neg_lo:[1,0]",
        lambda a, b, c: pair(np.minimum(-low(a), low(b)), np.minimum(high(a), high(b))),
        "gg",
    ),
    ("v_pk_add_i16 v10, v1, v2 clamp", lambda a, b, c: saturated(a, b), "ii"),
    ("v_pk_sub_u16 v10, v1, -1 op_sel_hi:[1,0]", lambda a, b, c: a + 1 & 0xFFFF | (a >> 16) + 1 << 16, "ii"),
    (
        "v_pk_fmac_f16 v10, v1, v2",
        lambda a, b, c: pair(wide(low(a)) * low(b) + low(c), wide(high(a)) * high(b) + high(c)),
        "gg",
    ),
    (
        "v_dot2_f32_f16 v10, v1, v2, 1.0",
        lambda a, b, c: of_single(products(high(a), high(b)) + (products(low(a), low(b)) + np.float32(1))),
        "gg",
    ),
    (
        "v_perm_b32 v10, v1, v2, v3",
        lambda a, b, c: (a & 0xFF00) << 16 | (b & 0xFF) << 16 | 0xFF00 | (a >> 31) * 0xFF,
        "ii",
    ),
    # SDWA.
    (
        "v_add_u32_sdwa v10, v1, sext(v2) dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE src0_sel:BYTE_2 src1_sel:BYTE_1",
        lambda a, b, c: c & 0xFFFF | (a >> 16 & 255) + (b >> 8).astype(I8).astype(U32) << 16,
        "ii",
    ),
    (
        "v_mov_b32_sdwa v10, v1 dst_sel:BYTE_1 dst_unused:UNUSED_SEXT src0_sel:BYTE_3",
        lambda a, b, c: ((a >> 24).astype(I8).astype(np.int32) << 8).astype(U32),
        "ii",
    ),
    ("v_mov_b32_sdwa v10, v1 dst_sel:WORD_0 dst_unused:UNUSED_PAD src0_sel:WORD_1", lambda a, b, c: a >> 16, "ii"),
    (
        "v_add_f16_sdwa v10, -v1, |v2| dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:WORD_0",
        lambda a, b, c: of_half(abs(low(b)) - high(a)),
        "gg",
    ),
    (
        "v_cmp_lt_u32 vcc, v1, v2; s_nop 4; v_cndmask_b32_sdwa v10, v1, v2, vcc "
        "dst_sel:BYTE_3 dst_unused:UNUSED_PRESERVE src0_sel:WORD_1 src1_sel:BYTE_1",
        lambda a, b, c: c & 0xFFFFFF | np.where(a < b, b >> 8 & 255, a >> 16 & 255) << 24,
        "ii",
    ),
    (
        "v_cmp_lt_u32_sdwa s[10:11], v1, v2 src0_sel:BYTE_1 src1_sel:WORD_1; v_cndmask_b32 v10, 0, 1, s[10:11]",
        lambda a, b, c: (a >> 8 & 255) < (b >> 16),
        "ii",
    ),
    # DPP: a lane without a source keeps its result, or takes 0 with bound_ctrl.
    (
        "v_mov_b32_dpp v10, v1 row_shr:3 row_mask:0xf bank_mask:0xf bound_ctrl:0",
        lambda a, b, c: shifted_right(a, 3),
        "ii",
    ),
    (
        "v_mov_b32_dpp v10, v1 row_shr:3 row_mask:0xf bank_mask:0xf",
        lambda a, b, c: np.where(LANE % 16 < 3, c, np.roll(a, 3)),
        "ii",
    ),
    (
        "v_mov_b32_dpp v10, v1 row_shl:2 row_mask:0xf bank_mask:0x5",
        lambda a, b, c: np.where((LANE % 16 < 14) & (LANE // 4 % 2 == 0), np.roll(a, -2), c),
        "ii",
    ),
    ("v_mov_b32_dpp v10, v1 row_ror:5 row_mask:0xf bank_mask:0xf", lambda a, b, c: a[LANE & ~15 | LANE - 5 & 15], "ii"),
    (
        "v_mov_b32_dpp v10, v1 row_bcast:15 row_mask:0xa bank_mask:0xf",
        lambda a, b, c: np.where(LANE // 16 % 2 == 1, a[(LANE & ~15) - 1], c),
        "ii",
    ),
    (
        "v_mov_b32_dpp v10, v1 row_bcast:31 row_mask:0xc bank_mask:0xf",
        lambda a, b, c: np.where(LANE >= 32, a[31], c),
        "ii",
    ),
    ("v_mov_b32_dpp v10, v1 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf", lambda a, b, c: a[LANE ^ 1], "ii"),
    ("v_mov_b32_dpp v10, v1 wave_rol:1 row_mask:0xf bank_mask:0xf", lambda a, b, c: np.roll(a, -1), "ii"),
    (
        "v_mov_b32_dpp v10, v1 wave_shr:1 row_mask:0xf bank_mask:0xf",
        lambda a, b, c: np.where(LANE == 0, c, np.roll(a, 1)),
        "ii",
    ),
    (
        "v_add_f32_dpp v10, v1, v2 row_mirror row_mask:0xf bank_mask:0xf",
        lambda a, b, c: of_single(single(a)[LANE ^ 15] + single(b)),
        "nn",
    ),
    (
        "v_cmp_lt_u32 vcc, v1, v2; s_nop 4; v_cndmask_b32_dpp v10, v1, v2, vcc "
        "row_half_mirror row_mask:0xf bank_mask:0xf",
        lambda a, b, c: np.where(a < b, b, a[LANE ^ 7]),
        "ii",
    ),
    (
        "v_add_co_u32_dpp v10, vcc, v1, v2 row_shl:1 row_mask:0xf bank_mask:0xf bound_ctrl:0",
        lambda a, b, c: np.where(LANE % 16 < 15, np.roll(a, -1), 0) + b,
        "ii",
    ),
    # An inactive lane is no source of DPP, and takes no result.
    (
        "s_mov_b64 exec, 0xffff; v_mov_b32_dpp v10, v1 wave_rol:1 row_mask:0xf bank_mask:0xf",
        lambda a, b, c: np.where(LANE < 15, np.roll(a, -1), c),
        "ii",
    ),
    # Carries and masks of lanes.
    ("v_add_co_u32 v10, vcc, v1, v2; v_addc_co_u32 v10, vcc, v1, v2, vcc", lambda a, b, c: a + b + (a + b < a), "ii"),
    ("v_sub_co_u32 v10, vcc, v1, v2; v_subb_co_u32 v10, vcc, v1, v2, vcc", lambda a, b, c: a - b - (a < b), "ii"),
    ("v_subrev_co_u32 v10, s[10:11], v1, v2; v_cndmask_b32 v10, 0, 1, s[10:11]", lambda a, b, c: b < a, "ii"),
    (
        "v_cmpx_gt_u32 v1, v2; v_mov_b32 v10, 7".replace("v1, v2;", "vcc, v1, v2;"),
        lambda a, b, c: np.where(a > b, 7, c),
        "ii",
    ),
    # Between lanes and between kinds of registers.
    ("s_mov_b32 s8, 17; v_readlane_b32 s9, v1, s8; v_mov_b32 v10, s9", lambda a, b, c: np.full(LANES, a[17]), "ii"),
    (
        "s_mov_b64 exec, 0xfff0; v_readfirstlane_b32 s9, v1; s_mov_b64 exec, -1; v_mov_b32 v10, s9",
        lambda a, b, c: np.full(LANES, a[4]),
        "ii",
    ),
    ("s_mov_b32 m0, 5; v_writelane_b32 v10, 33, m0", lambda a, b, c: np.where(LANE == 5, 33, c), "ii"),
    (
        "s_mov_b32 s8, 1; s_set_gpr_idx_on s8, gpr_idx(SRC0); v_mov_b32 v10, v1; s_set_gpr_idx_off",
        lambda a, b, c: b,
        "ii",
    ),
    (
        "s_mov_b32 s8, 9; s_set_gpr_idx_on s8, gpr_idx(DST); v_mov_b32 v1, v2; s_set_gpr_idx_off",
        lambda a, b, c: b,
        "ii",
    ),
    ("v_cmp_class_f32 s[10:11], v1, 0; v_cndmask_b32 v10, 0, 1, s[10:11]", lambda a, b, c: a & 0, "ff"),
    (
        "v_mov_b32 v9, 0x204; v_cmp_class_f32 s[10:11], v1, v9; v_cndmask_b32 v10, 0, 1, s[10:11]",
        lambda a, b, c: np.isinf(single(a)),
        "ff",
    ),
    (
        "v_mov_b32 v9, 0x90; v_cmp_class_f16 s[10:11], v1, v9; v_cndmask_b32 v10, 0, 1, s[10:11]",
        lambda a, b, c: (low(a) != 0) & (abs(low(a)) < 2.0**-14),
        "hh",
    ),
]


def of_32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return of_32(a) * of_32(b)


def toward_zero(values: np.ndarray) -> np.ndarray:
    nearest = values.astype(np.float16)
    return np.where(abs(nearest.astype(np.float32)) > abs(values), np.nextafter(nearest, np.float16(0)), nearest)


def saturated(a: Words, b: Words) -> Words:
    halves = [np.clip((signed(x) >> 16) + (signed(y) >> 16), -32768, 32767) for x, y in ((a << 16, b << 16), (a, b))]
    return (halves[0] & 0xFFFF | halves[1] << 16).view(U32)


def outcome(text: str, words: Words) -> Wave:
    texts = tuple(text for text, _, _ in CASES)
    return execute(kernels_of(texts), texts.index(text), words)


@pytest.mark.parametrize(("text", "meaning", "kinds"), CASES, ids=[text for text, _, _ in CASES])
def test_modifier(text: str, meaning: Meaning, kinds: str):
    words = inputs(kinds)
    words[2] = 0x05000D0B  # v_perm_b32's selectors
    words[6] = inputs("ii", 3)[6] if "f16" not in text else inputs("gggggggg", 3)[6]
    with np.errstate(all="ignore"):
        wanted = np.asarray(meaning(words[0], words[1], words[6])).astype(np.int64).astype(U32)
    found = outcome(text, words).v10
    assert np.array_equal(found, wanted), [
        (lane, hex(x), hex(y)) for lane, (x, y) in enumerate(zip(found, wanted, strict=True)) if x != y
    ][:4]


def test_division_is_exact():
    """v_div_scale, Newton steps, v_div_fmas and v_div_fixup, as compilers emit them for a / b."""
    words = inputs("ff")
    text = """
      v_div_scale_f32 v20, s[10:11], v2, v2, v1
      v_div_scale_f32 v21, vcc, v1, v2, v1
      v_rcp_f32 v22, v20
      v_fma_f32 v23, -v20, v22, 1.0
      v_fma_f32 v22, v23, v22, v22
      v_mul_f32 v24, v21, v22
      v_fma_f32 v25, -v20, v24, v21
      v_fma_f32 v24, v25, v22, v24
      v_fma_f32 v20, -v20, v24, v21
      v_div_fmas_f32 v20, v20, v22, v24
      v_div_fixup_f32 v10, v20, v2, v1
    """
    found = single(execute(kernels_of((text,)), 0, words).v10)
    with np.errstate(all="ignore"):
        assert same(found, single(words[0]) / single(words[1]))
