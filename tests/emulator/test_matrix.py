"""Matrix instructions against float64, by the layout AMD publishes for CDNA1."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pytest

from tests.emulator.assembly import LANES, assemble
from updp_rt.emulator import Counters, Fault
from updp_rt.emulator._core import operations

NAMES = [name for name, encoding, _ in operations() if name.startswith("v_mfma")]
PER_LANE = {"f32": 1, "f16": 4, "bf16": 2, "i8": 4}  # elements of A, and of B
CYCLES = {4: 8, 16: 32, 32: 64}
RATE = {"f32": 256, "f16": 1024, "bf16": 512, "i8": 1024}  # at most, flops a cycle of a compute unit's four SIMDs


class Shape(NamedTuple):
    side: int
    depth: int
    kind: str

    @property
    def blocks(self) -> int:
        return LANES * PER_LANE[self.kind] // (self.side * self.depth)

    @property
    def results(self) -> int:
        return self.side**2 * self.blocks // LANES

    @property
    def sources(self) -> int:
        return max(PER_LANE[self.kind] * {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}[self.kind] // 4, 1)


def shape(name: str) -> Shape:
    found = re.fullmatch(r"v_mfma_[fi]32_(\d+)x\d+x(\d+)(\w+)", name)
    assert found
    return Shape(int(found[1]), int(found[2]), found[3])


def elements(words: np.ndarray, kind: str) -> np.ndarray:
    """Words ``[registers, 64]`` as float64 ``[64, elements]``."""
    by_lane = np.ascontiguousarray(words.T)
    if kind == "bf16":
        return (by_lane.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return by_lane.view({"f32": np.float32, "f16": np.float16, "i8": np.int8}[kind]).astype(np.float64)


def operand(words: np.ndarray, shape: Shape) -> np.ndarray:
    """``[blocks, side, depth]``: lane l holds row l % side; its elements are consecutive along the depth."""
    by_group = elements(words, shape.kind).reshape(LANES // shape.side, shape.side, -1)  # group of lanes, row, element
    if shape.blocks > 1:
        return by_group
    return by_group.transpose(1, 0, 2).reshape(1, shape.side, shape.depth)


def tile(words: np.ndarray, shape: Shape, number: type) -> np.ndarray:
    """Result registers as ``[blocks, side, side]``: four rows follow one another within a lane."""
    side, blocks = shape.side, shape.blocks
    values = words.view(number).astype(np.float64)
    if side == 4:  # a lane's registers are rows; every four lanes are a block
        return values.reshape(4, blocks, 4).transpose(1, 0, 2)
    groups = LANES // side  # of lanes: each holds four rows of every 4 * groups
    by_row = values.reshape(blocks, side // (4 * groups), 4, groups, side)  # block, rows above, row, group, column
    return by_row.transpose(0, 1, 3, 2, 4).reshape(blocks, side, side)


def random_words(rng: np.random.Generator, count: int, kind: str) -> np.ndarray:
    if kind == "i8":
        return rng.integers(0, 1 << 32, (count, LANES), np.uint64).astype(np.uint32)
    values = rng.standard_normal((count, LANES, 2 if kind in ("f16", "bf16") else 1)).astype(np.float32)
    if kind == "f32":
        return values.view(np.uint32)[..., 0]
    halves = values.astype(np.float16).view(np.uint16) if kind == "f16" else values.view(np.uint32) >> 16
    return (halves[..., 0] | halves[..., 1].astype(np.uint32) << 16).astype(np.uint32)


def multiply(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, place: int = 40) -> tuple[np.ndarray, Counters]:
    """The instruction's result registers, from a`place`; c: registers of the accumulator, at a40."""
    form = shape(name)
    loads, text = [], []
    for words, first in ((a, 1), (b, 5), (c, 10)):
        for row in range(len(words)):
            text.append(f"global_load_dword v{first + row}, v0, s[4:5]")
            text.append("v_add_u32 v0, 0x100, v0")
            loads.append(words[row])
    text.append("s_waitcnt vmcnt(0)")
    text += [f"v_accvgpr_write_b32 a{40 + row}, v{10 + row}" for row in range(form.results)]
    source = ["v1", "v5"] if form.sources == 1 else ["v[1:2]", "v[5:6]"]
    target = f"a[{place}:{place + form.results - 1}]"
    text.append(f"{name} {target}, {source[0]}, {source[1]}, a[40:{39 + form.results}]")
    text.append("v_lshlrev_b32 v0, 2, v100")
    for row in range(form.results):
        text += [f"v_accvgpr_read_b32 v{10 + row}, a{place + row}", f"global_store_dword v0, v{10 + row}, s[6:7]"]
        text.append("v_add_u32 v0, 0x100, v0")
    begin = "s_load_dwordx4 s[4:7], s[0:1], 0x0\nv_mov_b32 v100, v0\nv_lshlrev_b32 v0, 2, v0\ns_waitcnt lgkmcnt(0)\n"
    out = np.zeros((form.results, LANES), np.uint32)
    counters = assemble(begin + "\n".join(text)).launch("case_0", 1, LANES, np.array(loads), out)
    return out, counters


@pytest.mark.parametrize("name", NAMES)
def test_product(name: str):
    form = shape(name)
    rng = np.random.default_rng(NAMES.index(name))
    a, b = (random_words(rng, form.sources, form.kind) for _ in range(2))
    c = random_words(rng, form.results, "i8" if form.kind == "i8" else "f32")
    found, counters = multiply(name, a, b, c)
    number = np.int32 if form.kind == "i8" else np.float32
    wanted = np.einsum("bik,bjk->bij", operand(a, form), operand(b, form)) + tile(c, form, number)
    result = tile(found, form, number)
    if form.kind == "i8":
        assert np.array_equal(result, (wanted.astype(np.int64) + 2**31) % 2**32 - 2**31)
    else:
        assert np.abs(result - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert counters.matrix == 1
    assert counters.matrix_flops == 2 * form.side**2 * form.depth * form.blocks
    assert counters.matrix_cycles == CYCLES[form.side]
    assert 4 * counters.matrix_flops <= RATE[form.kind] * counters.matrix_cycles


@pytest.mark.parametrize("place", [38, 41, 43])
def test_small_results_may_partly_overlap_the_accumulator(place: int):
    """LLVM allocates such code for results of four registers: they are read before they are written."""
    name = "v_mfma_f32_16x16x16f16"
    rng = np.random.default_rng(0)
    a, b, c = random_words(rng, 2, "f16"), random_words(rng, 2, "f16"), random_words(rng, 4, "f32")
    apart, _ = multiply(name, a, b, c, place=60)
    assert np.array_equal(multiply(name, a, b, c, place=place)[0], apart)


REFUSED = {
    "v_mfma_f32_4x4x1f32 a[0:3], v0, v0, a[0:3] cbsz:1": "cbsz, abid and blgp are not implemented",
    # v_mfma_f32_4x4x1f32 a[0:3], v0, v0, 0: assemblers refuse it too.
    ".long 0xd3c20000, 0x02020100": "the accumulator is a constant",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refuses(text: str):
    nothing = np.zeros(1, np.uint32)
    with pytest.raises(Fault, match=REFUSED[text]):
        assemble(text).launch("case_0", 1, LANES, nothing, nothing)
