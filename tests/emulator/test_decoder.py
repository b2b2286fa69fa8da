"""The decoder and the disassembler, against LLVM's: every operation of the tables, and whole code objects."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.emulator.assembly import KERNEL, METADATA
from updp_rt.emulator import Module
from updp_rt.emulator._core import operations

VARIANTS = 16  # of each operation's operands
VECTOR = 256  # first vector register in a source field
SDWA, DPP = 249, 250
DATA = Path(__file__).with_name("data")


def objdump() -> str:
    found = shutil.which("llvm-objdump-15") or "/usr/lib/llvm-15/bin/llvm-objdump"
    assert Path(found).exists(), "llvm-objdump 15 is needed (Debian, Ubuntu: apt-get install llvm-15)"
    return found


def normal(text: str) -> str:
    """Without the label that llvm-objdump adds to branches."""
    return re.sub(r"\s+", " ", re.sub(r"\s*<[^>]*>", "", text)).strip()


def by_llvm(code: bytes) -> dict[int, str]:
    """LLVM's text of each instruction by its address."""
    with tempfile.NamedTemporaryFile(suffix=".elf") as file:
        file.write(code)
        file.flush()
        printed = subprocess.run(
            [objdump(), "-d", "--mcpu=gfx908", file.name], capture_output=True, text=True, check=True
        )
    lines = re.finditer(r"^\t(\S+)\s*(.*?)\s*// ([0-9A-F]{12}):", printed.stdout, re.MULTILINE)
    return {int(line[3], 16): normal(f"{line[1]} {line[2]}") for line in lines if line[1] != ".long"}


def by_us(module: Module) -> dict[int, str]:
    lines = [line for kernel in module.kernels for line in module.disassemble(kernel)]
    return {line.address: normal(f"{line.mnemonic} {line.operands}") for line in lines}


# Words of an operation with random operands, as its encoding lays them out.


def scalar_source(rng: random.Random, literals: list[int]) -> int:
    code = rng.choice([*range(0, 100, 4), 106, 124, 126, 128, 129, 192, 193, 208, 240, 243, 246, 247, 253, 255])
    if code == 255:
        literals.append(rng.choice([0x12345678, 0x89ABCDEF]))
    return code


def vector_source(rng: random.Random) -> int:
    return rng.choice([VECTOR + 2 * rng.randrange(16), 4 * rng.randrange(20), 128, 133, 193, 240, 242, 247, 248])


def sop2(rng: random.Random, number: int) -> list[int]:
    literals: list[int] = []
    first = scalar_source(rng, literals)
    second = scalar_source(rng, literals) if not literals else 4
    return [0x80000000 | number << 23 | 4 * rng.randrange(20) << 16 | second << 8 | first, *literals]


def sop1(rng: random.Random, number: int) -> list[int]:
    literals: list[int] = []
    source = 4 * rng.randrange(20) if number in (0x1D, 0x1E) else scalar_source(rng, literals)
    if number == 0x1C:
        source, literals = 0, []
    return [0xBE800000 | (0 if number == 0x1D else 4 * rng.randrange(20)) << 16 | number << 8 | source, *literals]


def sopc(rng: random.Random, number: int) -> list[int]:
    literals: list[int] = []
    first = scalar_source(rng, literals)
    second = rng.randrange(16) if number == 0x11 else 4 * rng.randrange(20)
    return [0xBF000000 | number << 16 | second << 8 | first, *literals]


def sopk(rng: random.Random, number: int) -> list[int]:
    constant = (
        rng.choice([15 | 31 << 11, 1 | 4 << 6 | 3 << 11]) if number in (0x11, 0x12, 0x14) else rng.randrange(1 << 16)
    )
    scalar = 0 if number == 0x14 else 4 * rng.randrange(20)
    return [
        0xB0000000 | number << 23 | scalar << 16 | constant,
        *([rng.randrange(100, 1 << 20)] if number == 0x14 else []),
    ]


def sopp(rng: random.Random, number: int) -> list[int]:
    bare = number in (0x01, 0x0A, 0x13, 0x16, 0x1C)
    constant = 0 if bare else 1 if number == 0x10 else rng.randrange(16) if number == 0x1D else rng.randrange(1 << 16)
    return [0xBF800000 | number << 16 | constant]


def smem(rng: random.Random, number: int) -> list[int]:
    if number in (0x20, 0x21, 0x22, 0x23):
        return [0xC0000000 | number << 18, 0]
    if number in (0x24, 0x25):
        return [0xC0000000 | number << 18 | 8 << 6, 0]
    immediate, register = rng.choice([(1, 0), (0, 0), (1, 1)])
    first = 0xC0000000 | number << 18 | immediate << 17 | rng.randrange(2) << 16 | register << 14 | 16 << 6 | 2
    offset = rng.randrange(1 << 20) if immediate else 4 * rng.randrange(20)
    return [first, offset | (rng.randrange(90) << 25 if register else 0)]


def extended(rng: random.Random, form: int, compares: bool, two: bool) -> int:
    """The second word of an SDWA or DPP instruction."""
    if form == DPP:
        control = rng.choice(
            [rng.randrange(256), 0x101, 0x112, 0x123, 0x130, 0x134, 0x138, 0x13C, 0x140, 0x141, 0x142, 0x143]
        )
        return rng.randrange(16) | control << 8 | rng.randrange(2) << 19 | rng.randrange(256) << 24
    select = rng.randrange(7) << 16 | (rng.randrange(7) << 24 if two else 0)
    source = rng.choice([2 * rng.randrange(16), 1 << 23 | 4 * rng.randrange(20)])
    if compares:
        return source | select | rng.choice([0, 1 << 15 | 4 * rng.randrange(20) << 8])
    return source | select | rng.randrange(7) << 8 | rng.randrange(3) << 11 | (0 if two else 6 << 24)


def vop1(rng: random.Random, number: int) -> list[int]:
    if number == 0:
        return [0x7E000000]
    form = rng.choice([0, 0, SDWA, DPP, 1]) if number != 0x51 else 0
    target = 2 * rng.randrange(20)
    if form == 1:
        return vop3_words(rng, 0x140 + number, 1)
    if form:
        return [0x7E000000 | target << 17 | number << 9 | form, extended(rng, form, False, False)]
    source = VECTOR + 2 * rng.randrange(16) if number in (0x02, 0x51) else vector_source(rng)
    return [0x7E000000 | target << 17 | number << 9 | source]


def vop2(rng: random.Random, number: int) -> list[int]:
    form = rng.choice([0, 0, SDWA, DPP, 1]) if number != 0x33 else 0
    first = number << 25 | 2 * rng.randrange(20) << 17 | 2 * rng.randrange(16) << 9
    if number in (0x17, 0x18, 0x24, 0x25):
        return [first | VECTOR + 3, 0x12345678]
    if form == 1:
        return vop3_words(rng, 0x100 + number, 3 if number in (0x00, 0x1C, 0x1D, 0x1E) else 2, scalar_last=True)
    return [first | form, extended(rng, form, False, True)] if form else [first | vector_source(rng)]


def vopc(rng: random.Random, number: int) -> list[int]:
    form = rng.choice([0, SDWA, 1])
    first = 0x7C000000 | number << 17 | 2 * rng.randrange(16) << 9
    if form == 1:
        return vop3_words(rng, number, 2)
    return [first | form, extended(rng, form, True, True)] if form else [first | vector_source(rng)]


def vop3_words(rng: random.Random, number: int, sources: int, scalar_last: bool = False) -> list[int]:
    fields = [vector_source(rng) for _ in range(sources)]
    if scalar_last and sources == 3:
        fields[2] = 4 * rng.randrange(20)
    floats = (
        number < 0x80 or 0x101 <= number < 0x106 or number in (0x1C1, 0x1CB, 0x1CC, 0x1D0, 0x1D6, 0x1F4, 0x206, 0x280)
    )
    negated = rng.randrange(1 << sources) << 29 if floats else 0
    modifiers = rng.choice([0, 0, negated, negated | rng.randrange(4) << 27])
    first = 0xD0000000 | number << 16 | rng.choice([0, 0, 1 << 15]) | 4 * rng.randrange(20)
    with_mask = number in (0x119, 0x11A, 0x11B, 0x11C, 0x11D, 0x11E, 0x1E0, 0x1E1, 0x1E8, 0x1E9)
    first |= (
        4 * rng.randrange(20) << 8
        if with_mask
        else rng.choice([0, 0, rng.randrange(1 << sources) << 8 if floats else 0])
    )
    return [first, sum(field << 9 * k for k, field in enumerate(fields)) | modifiers]


def vop3(rng: random.Random, number: int) -> list[int]:
    words = vop3_words(rng, number, 2 if number >= 0x280 else 3)
    if number in (0x1F1, 0x1F2, *range(0x1F4, 0x1FD), *range(0x203, 0x208)):
        words[0] |= rng.choice([0, rng.randrange(16) << 11])
    if number == 0x289:
        return [words[0] & ~0x780, VECTOR + 3 | 4 << 9]
    if number == 0x2A0:  # LLVM writes a constant as a float, which it is not
        words[1] = VECTOR + 2 | (VECTOR + 4) << 9
    return [words[0], 4 | 5 << 9] if number == 0x28A else words


def vop3p(rng: random.Random, number: int) -> list[int]:
    sources = 3 if number in (0x00, 0x09, 0x0E) or number >= 0x20 else 2
    all_of = (1 << sources) - 1
    high = rng.choice([all_of, rng.randrange(all_of + 1)])
    first = 0xD3800000 | number << 16 | rng.choice([0, 1 << 15]) | (high >> 2) << 14 | 4 * rng.randrange(20)
    first |= rng.choice([0, rng.randrange(all_of + 1) << 11]) | rng.choice([0, rng.randrange(all_of + 1) << 8])
    fields = sum((VECTOR + 2 * rng.randrange(16)) << 9 * k for k in range(sources))
    return [first, fields | (high & 3) << 27 | rng.choice([0, rng.randrange(all_of + 1) << 29])]


def matrix(rng: random.Random, number: int) -> list[int]:
    registers = [VECTOR + 4 * rng.randrange(16) for _ in range(3)]
    if number in (0x58, 0x59):
        return [0xD3804000 | number << 16 | 5, registers[0] | 3 << 27]
    registers[2] = rng.choice([registers[2], 128, 242])
    first = 0xD3800000 | number << 16 | 4 * rng.randrange(16) | rng.choice([0, 1 << 8 | 2 << 11])
    return [
        first,
        sum(field << 9 * k for k, field in enumerate(registers)) | rng.randrange(4) << 27 | rng.randrange(8) << 29,
    ]


def ds(rng: random.Random, number: int) -> list[int]:
    registers = [2 * rng.randrange(16) for _ in range(4)]
    returns = 0x20 <= number <= 0x3F or 0x56 <= number <= 0x7F or number >= 0xFE
    writes = number not in (*range(0x36, 0x3E), *range(0x56, 0x5C), 0x76, 0x77, 0x78, 0xFE, 0xFF)
    two = number in (0x0C, 0x0E, 0x0F, 0x10, 0x11, 0x2C, 0x30, 0x31, 0x4C, 0x4E, 0x4F, 0x50, 0x51, 0x6C, 0x70, 0x71)
    offset = rng.choice([0, 16, 0x8000 | rng.randrange(256), rng.randrange(1 << 15), 31 | 1 << 14, 31 | 15 << 10])
    second = registers[0] | (registers[1] if writes else 0) << 8 | (registers[2] if two else 0) << 16
    return [0xD8000000 | number << 17 | offset, second | (registers[3] if returns else 0) << 24]


def flat(rng: random.Random, number: int) -> list[int]:
    space = rng.choice([0, 2, 2] if number >= 0x40 else [0, 1, 2])
    silent = number in (0x4D, 0x4E)
    space = 2 if silent else space
    returns = 0 if silent else rng.randrange(2)
    base = 0x7F if space == 0 else rng.choice([0x7F, 4 * rng.randrange(20)])
    offset = rng.randrange(1 << (12 if space == 0 else 13))
    first = 0xDC000000 | number << 18 | space << 14 | returns << 16 | rng.randrange(2) << 17 | offset
    store = 0x18 <= number <= 0x1F
    load = number < 0x40 and not store
    address = 0 if space == 1 and base != 0x7F else 2 * rng.randrange(16)
    target = 2 * rng.randrange(16) if load or (number >= 0x40 and returns) else 0
    return [first, address | (0 if load else 6) << 8 | (0 if space == 0 else base) << 16 | target << 24]


def mubuf(rng: random.Random, number: int) -> list[int]:
    if number in (0x3E, 0x3F):
        return [0xE0000000 | number << 18, 0]
    addressing = rng.randrange(4)
    glc = 0 if number in (0x4D, 0x4E) else rng.randrange(2)
    first = 0xE0000000 | number << 18 | addressing << 12 | glc << 14 | rng.randrange(2) << 17 | rng.randrange(1 << 12)
    offset = rng.choice([128, 4 * rng.randrange(20), 133])
    return [first, (2 * rng.randrange(16) if addressing else 0) | 8 << 8 | 2 << 16 | offset << 24]


ENCODERS: dict[str, Callable[[random.Random, int], list[int]]] = {
    "sop1": sop1, "sop2": sop2, "sopk": sopk, "sopc": sopc, "sopp": sopp, "smem": smem, "vop1": vop1, "vop2": vop2,
    "vopc": vopc, "vop3": vop3, "vop3p": vop3p, "matrix": matrix, "ds": ds, "flat": flat, "mubuf": mubuf,
}  # fmt: skip


@cache
def random_words() -> tuple[Module, dict[int, str], dict[int, tuple[str, list[int]]]]:
    """A kernel of random instructions, LLVM's text of it, and which operation is meant at which address."""
    rng = random.Random(1)
    meant = [
        (name, ENCODERS[encoding](rng, number)) for name, encoding, number in operations() for _ in range(VARIANTS)
    ]
    # Behind each, as many s_nop as bring both decoders in step again.
    body = "".join(f"  .long {', '.join(map(str, [*words, *[0xBF800000] * 2]))}\n" for _, words in meant)
    sizes = {"lds": 0, "scratch": 0, "registers": 256}
    metadata = f"amdhsa.version: [1, 1]\namdhsa.kernels:{METADATA.format(name='words', **sizes)}"
    text = KERNEL.format(name="words", body=body, **sizes) + f".amdgpu_metadata\n{metadata}\n.end_amdgpu_metadata\n"
    with tempfile.TemporaryDirectory() as folder:
        source, relocatable, code = (Path(folder, name) for name in ("words.s", "words.o", "words.co"))
        source.write_text(text)
        target = ["-target", "amdgcn-amd-amdhsa", "-mcpu=gfx908"]
        subprocess.run(["clang-15", "-x", "assembler", *target, "-c", source, "-o", relocatable], check=True)
        subprocess.run(["ld.lld-15", "-shared", relocatable, "-o", code], check=True)
        module, wanted = Module(code), by_llvm(code.read_bytes())
    places, address = {}, module.disassemble("words")[0].address
    for name, words in meant:
        places[address] = (name, words)
        address += 4 * (len(words) + 2)
    return module, wanted, places


def test_every_operation_reads_as_llvm_writes_it():
    module, wanted, places = random_words()
    found = by_us(module)
    known = {address: text for address, text in wanted.items() if address in places}
    wrong = [
        f"{[hex(word) for word in places[address][1]]}: {found.get(address)!r}, LLVM: {text!r}"
        for address, text in known.items()
        if found.get(address) != text
    ]
    assert not wrong, f"{len(wrong)} of {len(known)}:\n" + "\n".join(wrong[:30])


def test_every_operation_is_known_to_llvm_under_its_opcode():
    _, wanted, places = random_words()
    met = {
        (name, places[address][0])
        for address, text in wanted.items()
        if address in places
        for name in [text.split()[0]]
    }
    for name, _, _ in operations():
        assert any(meant == name and name in text for text, meant in met), f"LLVM never reads {name}"


def test_opcodes_are_unique():
    found = [(encoding, number) for _, encoding, number in operations()]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("path", sorted(DATA.glob("*.hsaco")), ids=lambda path: path.stem)
def test_code_objects_read_as_llvm_writes_them(path: Path):
    code = path.read_bytes()
    begin = code.index(b"\x7fELF")  # past the header of a bundle
    found, wanted = by_us(Module(code)), by_llvm(code[begin:])
    assert len(found) > 100
    assert found == {address: wanted[address] for address in found}
