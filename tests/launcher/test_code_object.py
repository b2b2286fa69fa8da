"""The reader of code objects: what it finds in sound files, and that unsound ones give its error and nothing else."""

import random
import struct

import pytest
import torch

from tests.launcher.objects import bundle, code_object
from updp_rt._launcher import CodeObjectError, describe


def kernels(code: bytes, arch: str = "") -> dict[str, dict]:
    return {kernel["name"]: kernel for kernel in describe(code, arch)["kernels"]}


def described(argument):
    return argument["value_kind"], argument["offset"], argument["size"]


def is_hidden(argument):
    return argument["value_kind"].startswith("hidden")


@pytest.mark.parametrize("version", [4, 5])
def test_finds_kernels_and_their_explicit_arguments(version):
    code = code_object(version=version)
    assert describe(code)["arch"] == "gfx908"
    found = kernels(code)
    assert set(found) == {"line", "scale", "sizes", "one_wave", "neighbour", "constants"}
    explicit = [described(argument) for argument in found["sizes"]["arguments"] if not is_hidden(argument)]
    values = [
        ("by_value", 0, 1),
        ("by_value", 8, 8),
        ("by_value", 16, 2),
        ("global_buffer", 24, 8),
        ("by_value", 32, 4),
    ]
    assert explicit == values
    assert described(found["line"]["arguments"][2]) == ("by_value", 16, 16)


def test_reads_figures_of_the_descriptor():
    found = kernels(code_object())
    assert found["neighbour"]["lds_bytes"] == 1024
    assert found["scale"]["lds_bytes"] == 0
    assert found["one_wave"]["max_workgroup_size"] == 64
    assert found["scale"]["max_workgroup_size"] == 1024
    assert all(kernel["wavefront_size"] == 64 for kernel in found.values())
    assert all(0 < kernel["vgprs"] < 32 and kernel["vgpr_spills"] == 0 for kernel in found.values())
    begin, size = describe(code_object())["text"]
    assert all(kernel["entry"] % 256 == 0 and begin <= kernel["entry"] < begin + size for kernel in found.values())


def test_reads_relocations():
    described = describe(code_object())
    ((address, addend),) = described["relocations"]
    assert address % 8 == 0
    assert max(address, addend) < described["image_bytes"]


@pytest.mark.parametrize("arch", ["gfx900", "gfx906", "gfx908", "gfx90a", "gfx1030"])
def test_tells_the_architecture(arch):
    assert describe(code_object(arch))["arch"] == arch
    assert describe(code_object(arch), arch + ":sramecc+:xnack-")["arch"] == arch
    with pytest.raises(CodeObjectError, match=f"for {arch}, not for gfx942"):
        describe(code_object(arch), "gfx942")


@pytest.mark.parametrize("arch", ["gfx908", "gfx90a", "gfx942"])
def test_reads_tritons_code_objects(arch):
    from updp_rt.kernels.triton import tiles
    from updp_rt.kernels.triton.ahead import compile_kernel

    compiled = compile_kernel("linear", torch.float16, tiles("linear", arch, torch.float16)[0], arch)
    (kernel,) = describe(compiled.asm["hsaco"], arch)["kernels"]
    assert kernel["name"] == compiled.metadata.name
    assert kernel["max_workgroup_size"] == 64 * compiled.metadata.num_warps


def test_picks_from_a_bundle():
    images = {
        "host-x86_64-unknown-linux--": b"",
        "hipv4-amdgcn-amd-amdhsa--gfx908": code_object("gfx908"),
        "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-": code_object("gfx90a"),
    }
    assert describe(bundle(images), "gfx908")["arch"] == "gfx908"
    assert describe(bundle(images), "gfx90a")["arch"] == "gfx90a"
    with pytest.raises(CodeObjectError, match=r"one image for gfx906 .* has: .*gfx908 .*gfx90a"):
        describe(bundle(images), "gfx906")
    with pytest.raises(CodeObjectError, match="expected one image in"):
        describe(bundle(images))
    assert describe(bundle(dict(list(images.items())[:2])))["arch"] == "gfx908"


def test_says_what_a_file_is_not():
    code = code_object()
    for other in (b"", b"\x7fELF", b"text", code[1:]):
        with pytest.raises(CodeObjectError, match="neither a 64-bit ELF file nor a clang offload bundle"):
            describe(other)
    x86 = bytearray(code)
    struct.pack_into("<H", x86, 18, 62)
    with pytest.raises(CodeObjectError, match="something else than an AMD GPU"):
        describe(bytes(x86))
    with pytest.raises(CodeObjectError, match="compressed"):
        describe(b"CCOB" + code)


def accepted(code: bytes) -> bool:
    """Whether the file is read; anything else than the reader's own error fails the test."""
    try:
        describe(code)
    except CodeObjectError:
        return False
    return True


def test_every_truncation_is_an_error():
    for code in (code_object(version=5), bundle({"hipv4-amdgcn-amd-amdhsa--gfx908": code_object()})):
        assert accepted(code)
        assert not any(accepted(code[:length]) for length in range(len(code)))


def test_survives_damage():
    seed = random.randrange(2**32)
    print("seed", seed)
    draw = random.Random(seed)
    files = [code_object(), code_object(version=5), bundle({"hipv4-amdgcn-amd-amdhsa--gfx908": code_object()})]
    refused = 0
    for _ in range(20000):
        damaged = bytearray(draw.choice(files))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(draw.choice((64, 1024, len(damaged))))
            damaged[place] = draw.choice((0, 0xFF, draw.randrange(256), damaged[place] ^ 1 << draw.randrange(8)))
        refused += not accepted(bytes(damaged))
    assert 2000 < refused < 20000


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("value", [0, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF])
def test_survives_extreme_offsets_everywhere(width, value):
    code = code_object()
    words = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    for place in range(0, len(code) - width, width):
        accepted(code[:place] + words + code[place + width :])
