"""Memory instructions: what each width and half loads and stores, address forms, atomics, LDS, and their counters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.emulator.assembly import LANES, assemble, execute, kernels_of, run
from tests.emulator.bits import Words, inputs, pair, signed, single

LANE = np.arange(LANES)
U32, U64 = np.uint32, np.uint64
SEXT8 = lambda words: (signed(words << 24) >> 24).view(U32)  # noqa: E731
SEXT16 = lambda words: (signed(words << 16) >> 16).view(U32)  # noqa: E731

# In terms of a word in memory and what the register held.
LOADS: dict[str, Callable[[Words, Words], Words]] = {
    "ubyte": lambda word, old: word & 255,
    "sbyte": lambda word, old: SEXT8(word),
    "ushort": lambda word, old: word & 0xFFFF,
    "sshort": lambda word, old: SEXT16(word),
    "dword": lambda word, old: word,
    "ubyte_d16": lambda word, old: old & 0xFFFF0000 | word & 255,
    "ubyte_d16_hi": lambda word, old: old & 0xFFFF | (word & 255) << 16,
    "sbyte_d16": lambda word, old: old & 0xFFFF0000 | SEXT8(word) & 0xFFFF,
    "sbyte_d16_hi": lambda word, old: old & 0xFFFF | SEXT8(word) << 16,
    "short_d16": lambda word, old: old & 0xFFFF0000 | word & 0xFFFF,
    "short_d16_hi": lambda word, old: old & 0xFFFF | word << 16,
}
STORES: dict[str, Callable[[Words, Words], Words]] = {
    "byte": lambda word, old: old & 0xFFFFFF00 | word & 255,
    "byte_d16_hi": lambda word, old: old & 0xFFFFFF00 | word >> 16 & 255,
    "short": lambda word, old: old & 0xFFFF0000 | word & 0xFFFF,
    "short_d16_hi": lambda word, old: old & 0xFFFF0000 | word >> 16,
    "dword": lambda word, old: word,
}
# v0 is the lane's offset in bytes; s[4:5] the inputs, s[6:7] the results.
FORMS = {
    "global, scalar base": ("global_{} {}, v0, s[4:5]", "global_{} v0, {}, s[6:7]"),
    "global, 64-bit address": ("global_{} {}, v[12:13], off offset:-8", "global_{} v[14:15], {}, off offset:16"),
    "flat": ("flat_{} {}, v[16:17]", "flat_{} v[18:19], {}"),
    "buffer": ("buffer_{} {}, v0, s[20:23], 0 offen", "buffer_{} {}, v0, s[24:27], 0 offen"),
    "buffer, by index": ("buffer_{} {}, v20, s[28:31], 0 idxen", "buffer_{} {}, v20, s[32:35], 0 idxen"),
    "buffer, offsets": (
        "buffer_{} {}, v21, s[20:23], s36 offen offset:4",
        "buffer_{} {}, v21, s[24:27], s36 offen offset:4",
    ),
}
BUFFER = "s_mov_b32 s{0}, s{4}; s_mov_b32 s{1}, s{5}; s_mov_b32 s{2}, 4096; s_mov_b32 s{3}, 0x27000;"


def address(low: int, base: int, displacement: int) -> str:
    """``v[low:low+1]``: ``s[base:base+1]`` plus the lane's offset and a displacement."""
    high, carry = low + 1, -1 if displacement < 0 else 0
    return (
        f"v_mov_b32 v{high}, s{base + 1}; v_add_co_u32 v{low}, vcc, s{base}, v0;"
        f"v_addc_co_u32 v{high}, vcc, 0, v{high}, vcc;"
        f"v_add_co_u32 v{low}, vcc, {displacement}, v{low}; v_addc_co_u32 v{high}, vcc, {carry}, v{high}, vcc;"
    )


# Addresses in v[12:19]; buffers in s[20:35], the last two of elements of 4 bytes; an index in v20; v21: v0 less 12.
ADDRESSES = (
    address(12, 4, 8) + address(14, 6, -16) + address(16, 4, 0) + address(18, 6, 0)
    + BUFFER.format(20, 21, 22, 23, 4, 5) + BUFFER.format(24, 25, 26, 27, 6, 7)
    + BUFFER.format(28, 29, 30, 31, 4, 5) + "s_bitset1_b32 s29, 18;"
    + BUFFER.format(32, 33, 34, 35, 6, 7) + "s_bitset1_b32 s33, 18;"
    + "v_lshrrev_b32 v20, 2, v0; v_add_u32 v21, -12, v0; v_max_i32 v21, 0, v21; s_mov_b32 s36, 8;"
)  # fmt: skip
WAIT = "s_waitcnt vmcnt(0) lgkmcnt(0);"
PREPARE = "global_store_dword v0, v2, s[6:7];"
READ_BACK = f"{WAIT} global_load_dword {{}}, v0, s[6:7]; {WAIT}"


def wave(text: str, words: Words) -> tuple[Words, Words]:
    """v10 and v11 after the text."""
    found = execute(kernels_of((ADDRESSES + text,)), 0, words)
    return found.v10, found.v11


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", LOADS)
def test_loads(width: str, form: str):
    words = inputs("iiiiiiii")
    found, _ = wave(FORMS[form][0].format("load_" + width, "v10") + ";" + WAIT, words)
    wanted = LOADS[width](words[0], words[6])
    inside = LANE >= 3 if form == "buffer, offsets" else LANE >= 0  # its offset is 12 bytes at least
    assert np.array_equal(found[inside], wanted[inside])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", STORES)
def test_stores(width: str, form: str):
    words = inputs("iiiiiiii")
    mask = "s_mov_b64 exec, -8;" if form == "buffer, offsets" else ""
    body = (
        f"global_store_dword v0, v2, s[6:7]; {mask}"
        + FORMS[form][1].format("store_" + width, "v1")
        + "; s_mov_b64 exec, -1;"
    )
    found, _ = wave(body + f"{WAIT} global_load_dword v10, v0, s[6:7]; {WAIT}", words)
    inside = LANE >= 3 if mask else LANE >= 0
    assert np.array_equal(found[inside], STORES[width](words[0], words[1])[inside])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_wide_loads_and_stores(count: int):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, (LANES, count), np.uint64).astype(U32)
    out = np.zeros_like(values)
    run(
        f"""
        s_load_dwordx4 s[4:7], s[0:1], 0x0
        v_mul_u32_u24_e32 v0, {4 * count}, v0
        s_waitcnt lgkmcnt(0)
        global_load_dwordx{count} v[4:{3 + count}], v0, s[4:5]
        s_waitcnt vmcnt(0)
        global_store_dwordx{count} v0, v[4:{3 + count}], s[6:7]
        """,
        values,
        out,
    )
    assert np.array_equal(out, values)


# Memory afterwards, by what it held and the operand. cmpswap: below.
ATOMICS: dict[str, Callable[[Words, Words], Words]] = {
    "swap": lambda old, x: x,
    "add": lambda old, x: old + x,
    "sub": lambda old, x: old - x,
    "smin": lambda old, x: np.minimum(signed(old), signed(x)).view(U32),
    "umin": np.minimum,
    "smax": lambda old, x: np.maximum(signed(old), signed(x)).view(U32),
    "umax": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "inc": lambda old, x: np.where(old >= x, 0, old + 1),
    "dec": lambda old, x: np.where((old == 0) | (old > x), x, old - 1),
}
LDS_NAMES = {"swap": "wrxchg", "smin": "min_i", "umin": "min_u", "smax": "max_i", "umax": "max_u"}


@pytest.mark.parametrize(
    "form", ["global_atomic_{} v10, v0, v1, s[6:7] glc", "buffer_atomic_{} v10, v0, s[24:27], 0 offen glc"]
)
@pytest.mark.parametrize("name", ATOMICS)
def test_atomics(name: str, form: str):
    words = inputs("iiiiiiii")
    words[0, ::7] = words[1, ::7]
    instruction = form.format(name)
    if form.startswith("buffer"):
        instruction = "v_mov_b32 v10, v1; " + instruction
    found, after = wave(f"{PREPARE} {instruction}; {READ_BACK.format('v11')}", words)
    assert np.array_equal(found, words[1])
    assert np.array_equal(after, np.asarray(ATOMICS[name](words[1], words[0])).astype(U32))


@pytest.mark.parametrize("name", ATOMICS)
def test_lds_atomics(name: str):
    words = inputs("iiiiiiii")
    words[0, ::7] = words[1, ::7]
    kind = "_b32" if name in ("swap", "and", "or", "xor") else "32" if name in LDS_NAMES else "_u32"
    opcode = "ds_" + (LDS_NAMES.get(name, name) + kind).replace("_", "_rtn_", 1)
    found, after = wave(f"ds_write_b32 v0, v2; {opcode} v10, v0, v1; ds_read_b32 v11, v0; {WAIT}", words)
    assert np.array_equal(found, words[1])
    assert np.array_equal(after, np.asarray(ATOMICS[name](words[1], words[0])).astype(U32))


def test_64_bit_and_comparing_atomics():
    words = inputs("iiiiiiii")
    words[2, ::2] = words[4, ::2]  # what memory holds in v3; what is compared in v5 (LDS), v2 (global)
    words[1] = words[4]
    body = f"ds_write_b32 v0, v3; ds_cmpst_rtn_b32 v10, v0, v5, v1; ds_read_b32 v11, v0; {WAIT}"
    found, after = wave(body, words)
    assert np.array_equal(found, words[2])
    assert np.array_equal(after, np.where(words[2] == words[4], words[0], words[2]))
    body = f"global_store_dword v0, v3, s[6:7]; global_atomic_cmpswap v10, v0, v[1:2], s[6:7] glc; {WAIT}"
    found, after = wave(body + f"global_load_dword v11, v0, s[6:7]; {WAIT}", words)
    assert np.array_equal(found, words[2])
    assert np.array_equal(after, np.where(words[2] == words[4], words[0], words[2]))
    body = f"v_lshlrev_b32 v9, 1, v0; ds_write_b64 v9, v[1:2]; ds_add_u64 v9, v[3:4]; ds_read_b64 v[10:11], v9; {WAIT}"
    low, high = wave(body, words)
    long = [words[row] | words[row + 1].astype(U64) << U64(32) for row in (0, 2)]
    assert np.array_equal(low | high.astype(U64) << U64(32), long[0] + long[1])


def test_float_atomics():
    words = inputs("nnnnnnnn")
    total, _ = wave(
        f"{PREPARE} global_atomic_add_f32 v0, v1, s[6:7]; {READ_BACK.format('v10')}",
        words,
    )
    assert np.array_equal(single(total), single(words[0]) + single(words[1]))
    for name, meaning in (("add", np.add), ("min", np.minimum), ("max", np.maximum)):
        found, after = wave(f"ds_write_b32 v0, v2; ds_{name}_rtn_f32 v10, v0, v1; ds_read_b32 v11, v0; {WAIT}", words)
        assert np.array_equal(found, words[1])
        assert np.array_equal(single(after), meaning(single(words[1]), single(words[0])))
    words = inputs("gggggggg")
    halves, _ = wave(
        f"{PREPARE} global_atomic_pk_add_f16 v0, v1, s[6:7]; {READ_BACK.format('v10')}",
        words,
    )
    a, b = (words[row].view(np.float16).reshape(LANES, 2) for row in (0, 1))
    assert np.array_equal(halves, pair(*(a + b).T))


def test_atomics_of_many_workgroups_and_threads():
    body = """
      s_load_dwordx4 s[4:7], s[0:1], 0x0
      v_and_b32_e32 v1, 7, v0
      v_lshlrev_b32_e32 v1, 2, v1
      s_waitcnt lgkmcnt(0)
      global_atomic_add v1, v0, s[6:7]
    """
    out = np.zeros(8, U32)
    assemble(body).launch("case_0", 50, LANES, out, out, threads=4, workgroups="shuffled")
    assert np.array_equal(out, 50 * LANE.reshape(8, 8).sum(0))


LDS_WIDTHS = {
    "u8": lambda word, old: word & 255,
    "i8": lambda word, old: SEXT8(word),
    "u16": lambda word, old: word & 0xFFFF,
    "i16": lambda word, old: SEXT16(word),
    "b32": lambda word, old: word,
    "u8_d16": LOADS["ubyte_d16"],
    "u8_d16_hi": LOADS["ubyte_d16_hi"],
    "i8_d16": LOADS["sbyte_d16"],
    "i8_d16_hi": LOADS["sbyte_d16_hi"],
    "u16_d16": LOADS["short_d16"],
    "u16_d16_hi": LOADS["short_d16_hi"],
}


@pytest.mark.parametrize("width", LDS_WIDTHS)
def test_lds_reads(width: str):
    words = inputs("iiiiiiii")
    found, _ = wave(f"ds_write_b32 v0, v1 offset:16; ds_read_{width} v10, v0 offset:16; {WAIT}", words)
    assert np.array_equal(found, LDS_WIDTHS[width](words[0], words[6]))


@pytest.mark.parametrize("width", ["b8", "b16", "b8_d16_hi", "b16_d16_hi"])
def test_lds_writes(width: str):
    words = inputs("iiiiiiii")
    found, _ = wave(f"ds_write_b32 v0, v2; ds_write_{width} v0, v1; ds_read_b32 v10, v0; {WAIT}", words)
    name = width.replace("b8", "byte").replace("b16", "short")
    assert np.array_equal(found, STORES[name](words[0], words[1]))


def test_lds_of_two_addresses_and_of_many_words():
    words = inputs("iiiiiiii")
    found = wave(
        f"ds_write2_b32 v0, v1, v2 offset0:1 offset1:65; ds_read2_b32 v[10:11], v0 offset0:1 offset1:65; {WAIT}", words
    )
    assert np.array_equal(found, words[:2])
    found = wave(f"ds_write2st64_b32 v0, v1, v2 offset1:2; ds_read2st64_b32 v[10:11], v0 offset1:2; {WAIT}", words)
    assert np.array_equal(found, words[:2])
    for count, bits in ((3, 96), (4, 128)):
        write, read = f"ds_write_b{bits} v9, v[1:{count}];", f"ds_read_b{bits} v[12:{11 + count}], v9;"
        last = f"v_lshlrev_b32 v9, 2, v0; {write} {read} {WAIT}"
        found = execute(kernels_of((last + f"v_mov_b32 v10, v12; v_mov_b32 v11, v{11 + count}",), lds=2048), 0, words)
        assert np.array_equal(found.v10, words[0])
        assert np.array_equal(found.v11, words[count - 1])
    # The address may be among the results.
    found = wave(f"v_mov_b32 v10, v0; ds_write_b32 v0, v1; ds_read2_b32 v[10:11], v10 offset1:0; {WAIT}", words)
    assert np.array_equal(found, [words[0], words[0]])


CROSSBAR: dict[str, Callable[[Words, Words], Words]] = {
    "ds_bpermute_b32 v10, v0, v1 offset:12": lambda a, b: a[(LANE + 3) % LANES],
    "v_xor_b32 v9, 0x54, v0; ds_bpermute_b32 v10, v9, v1": lambda a, b: a[LANE ^ 21],
    "v_xor_b32 v9, 0x54, v0; ds_permute_b32 v10, v9, v1": lambda a, b: a[LANE ^ 21],
    "v_and_b32 v9, 0xf0, v0; ds_permute_b32 v10, v9, v1": lambda a, b: np.where(LANE % 4, 0, a[LANE | 3]),
    "ds_swizzle_b32 v10, v1 offset:swizzle(SWAP,16)": lambda a, b: a[LANE ^ 16],
    "ds_swizzle_b32 v10, v1 offset:swizzle(REVERSE,8)": lambda a, b: a[LANE ^ 7],
    "ds_swizzle_b32 v10, v1 offset:swizzle(BROADCAST,8,5)": lambda a, b: a[LANE & ~7 | 5],
    "ds_swizzle_b32 v10, v1 offset:swizzle(QUAD_PERM,3,0,0,1)": lambda a, b: a[
        LANE & ~3 | np.array([3, 0, 0, 1])[LANE % 4]
    ],
    'ds_swizzle_b32 v10, v1 offset:swizzle(BITMASK_PERM,"01pi0")': lambda a, b: a[LANE & 32 | (LANE & 6 | 8) ^ 2],
    "s_mov_b64 exec, 0xff; ds_bpermute_b32 v10, v0, v1 offset:4": lambda a, b: np.where(
        LANE < 7, np.roll(a, -1), np.where(LANE < 8, 0, b)
    ),
}


@pytest.mark.parametrize("text", CROSSBAR)
def test_crossbar(text: str):
    words = inputs("iiiiiiii")
    found, _ = wave(f"{text}; {WAIT}", words)
    assert np.array_equal(found, CROSSBAR[text](words[0], words[6]))


def test_private_memory():
    words = inputs("iiiiiiii")
    aperture = "v_mov_b32 v12, 8; v_mov_b32 v13, src_private_base;"
    body = f"""
      s_mov_b32 s8, 4; v_mov_b32 v9, 4
      scratch_store_dword off, v1, s8 offset:4
      scratch_store_dword v9, v2, off
      {WAIT}
      scratch_load_dword v11, v9, off
      {aperture}
      flat_load_dword v10, v[12:13]
      {WAIT}
    """
    found = execute(kernels_of((body.replace("\n", ";"),), scratch=16), 0, words)
    assert np.array_equal([found.v10, found.v11], words[:2])


def test_flat_addresses_of_lds():
    words = inputs("iiiiiiii")
    found, _ = wave(
        f"ds_write_b32 v0, v1; v_mov_b32 v12, v0; v_mov_b32 v13, src_shared_base; {WAIT}"
        f"flat_load_dword v10, v[12:13]; {WAIT}",
        words,
    )
    assert np.array_equal(found, words[0])
