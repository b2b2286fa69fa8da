"""Loading code objects and launching kernels from Python: arguments, memory, orders, faults, and what errors say."""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from updp_rt.emulator import CodeObjectError, Counters, Fault, Module


@pytest.fixture(scope="module")
def module(small: Path) -> Module:
    return Module(small)


def random(*size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size, dtype=np.float32)


def test_a_code_object_tells_its_kernels(small: Path) -> None:
    for code in (small, str(small), small.read_bytes()):
        assert {"axpy", "positions", "reversed"} <= set(Module(code).kernels)
    axpy = Module(small).kernels["axpy"]
    assert axpy.signature == "axpy(4 bytes, pointer, pointer, pointer, 4 bytes)"
    assert [argument.offset for argument in axpy.arguments] == [0, 8, 16, 24, 32]
    assert (axpy.lds_bytes, axpy.scratch_bytes, axpy.wavefront_size) == (0, 0, 64)
    assert 0 < axpy.vgprs < 10
    assert Module(small).kernels["missing_barrier"].lds_bytes == 128 * 4


def test_a_kernel_is_disassembled(module: Module) -> None:
    lines = module.disassemble("axpy")
    assert [line.address for line in lines[1:]] == [line.address + line.size for line in lines[:-1]]
    assert {"global_store_dword", "s_load_dwordx4", "s_endpgm"} <= {line.mnemonic for line in lines}
    assert "v_mfma" not in str(lines)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_arrays_are_changed_in_place(module: Module, make: object) -> None:
    n = 1000
    x, y, out = random(n), random(n)[::-1].copy(), np.full(n, np.nan, np.float32)
    counters = module.launch("axpy", 4, 256, 2.5, make(x), make(y), make(out), n)
    np.testing.assert_array_equal(out, np.float32(2.5) * x + y)
    assert (counters.workgroups, counters.waves) == (4, 16)
    assert counters.global_loaded_bytes == 2 * 4 * n
    assert counters.global_stored_bytes == 4 * n
    assert counters.matrix == counters.lds == 0


def test_views_reach_what_they_show_and_tensors_their_storage(module: Module) -> None:
    storage = random(400)
    out = np.zeros(400, np.float32)
    module.launch("axpy", 1, 128, 1.0, storage[100:200], storage[200:300], out[300:], 100)
    np.testing.assert_array_equal(out[300:], storage[100:200] + storage[200:300])
    assert not out[:300].any()
    tensor = torch.from_numpy(storage)
    module.launch("axpy", 2, 128, 1.0, tensor[100:200], tensor[200:300], out, 200)  # beyond the views
    np.testing.assert_array_equal(out[:200], storage[100:300] + storage[200:400])
    with pytest.raises(Fault):
        module.launch("axpy", 1, 128, 1.0, storage[100:200], storage[200:300], out, 101)
    backwards = storage[::-1]
    module.launch("axpy", 1, 128, 1.0, backwards[300:], backwards[399:], out, 1)
    assert out[0] == storage[99] + storage[0]


def test_positions_in_three_dimensions(module: Module) -> None:
    grid, block = (3, 2, 5), (4, 7, 3)
    out = np.zeros((30 * 84, 6), np.uint32)
    module.launch("positions", grid, block, out)
    groups, lanes = (itertools.product(*map(range, reversed(size))) for size in (grid, block))
    wanted = [(*group[::-1], *lane[::-1]) for group, lane in itertools.product(list(groups), list(lanes))]
    np.testing.assert_array_equal(out, wanted)


def test_numbers_of_every_size(module: Module) -> None:
    out = np.zeros(7)
    module.launch("numbers", 1, 1, -3, 0x8000, -7, -(2**40), 0.5, 1.5, 1e-300, out)
    assert out.tolist() == [-3, -(2**15), -7, -(2.0**40), 0.5, 1.5, 1e-300]
    scalars = (np.int8(5), np.uint16(6), np.int32(-7), np.int64(8), np.float16(0.1), np.float32(0.1), np.float64(0.1))
    module.launch("numbers", 1, 1, *scalars, out)
    assert out.tolist() == [float(value) for value in scalars]
    module.launch("numbers", 1, 1, True, b"\2\0", 3, 4, struct.pack("<e", 5), struct.pack("<f", 6), 7.0, out)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_structures_are_bytes(module: Module) -> None:
    x, out = np.arange(64, dtype=np.int32), np.zeros(64, np.float32)
    module.launch("affine", 1, 64, struct.pack("<fhxx", 0.5, -3), x, out)
    np.testing.assert_array_equal(out, 0.5 * x - 3)


def test_stored_pointers_need_their_arrays_named(module: Module) -> None:
    arrays = [random(64) + k for k in range(3)]
    addresses = np.array([array.ctypes.data for array in arrays], np.uint64)
    out = np.zeros(64, np.float32)
    module.launch("sum_of", 1, 64, addresses, 3, out, extra=arrays)
    np.testing.assert_array_equal(out, arrays[0] + arrays[1] + arrays[2])
    module.launch("sum_of", 1, 64, addresses.ctypes.data, 3, out, extra=[*arrays, addresses])
    with pytest.raises(Fault, match="reads 4 bytes"):
        module.launch("sum_of", 1, 64, addresses, 3, out, extra=arrays[:2])


def test_dynamic_lds(module: Module) -> None:
    x, out = random(256), np.zeros(256, np.float32)
    module.launch("reversed", 1, 256, x, out, 256, dynamic_lds=1024)
    np.testing.assert_array_equal(out, x[::-1])
    with pytest.raises(Fault, match=r"4 bytes of LDS at 0x\w+; the workgroup has 1020"):
        module.launch("reversed", 1, 256, x, out, 256, dynamic_lds=1020)
    with pytest.raises(Fault, match="65540 bytes of LDS; a workgroup can have 65536"):
        module.launch("reversed", 1, 256, x, out, 256, dynamic_lds=65540)


def turns(module: Module, count: int = 20, **order: object) -> list[int]:
    """When each of 20 workgroups ran; -1: not at all."""
    turn = np.full(20, -1, np.int32)
    counters = module.launch("turns", 20, 64, np.zeros(1, np.uint32), turn, **order)
    assert counters.workgroups == count
    return turn.tolist()


def test_orders_of_workgroups(module: Module) -> None:
    assert turns(module) == list(range(20))
    assert turns(module, workgroups="backward") == list(range(20))[::-1]
    shuffled = [turns(module, workgroups="shuffled", seed=seed) for seed in (0, 1, 1)]
    assert [sorted(order) for order in shuffled] == [list(range(20))] * 3
    assert shuffled[0] != shuffled[1] == shuffled[2]


def test_a_part_of_the_grid(module: Module) -> None:
    assert turns(module, 3, first_workgroup=5, workgroup_count=3) == [-1] * 5 + [0, 1, 2] + [-1] * 12
    assert turns(module, 2, first_workgroup=18) == [-1] * 18 + [0, 1]
    some = turns(module, 4, first_workgroup=8, workgroup_count=4, workgroups="shuffled")
    assert sorted(some[8:12]) == [0, 1, 2, 3]


def test_threads_compute_and_count_the_same(module: Module) -> None:
    n = 5000
    x, y = random(2, n)
    out = np.empty(n, np.float32)
    found = []
    for threads in (1, 3, 0):
        out[:] = np.nan
        found.append(module.launch("axpy", 20, 256, 0.1, x, y, out, n, threads=threads))
        np.testing.assert_array_equal(out, np.float32(0.1) * x + y)
    assert found[0] == found[1] == found[2]


def test_launches_run_side_by_side(module: Module) -> None:
    n = 2000
    x = random(8, n)
    out = np.zeros_like(x)
    threads = [
        threading.Thread(target=module.launch, args=("axpy", 8, 256, float(k), x[k], x[k], out[k], n)) for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(out, x * np.arange(8, dtype=np.float32)[:, None] + x)


def test_a_missing_barrier_shows_with_waves_backward(module: Module) -> None:
    x, out = random(128), np.zeros(128, np.float32)
    module.launch("missing_barrier", 1, 128, x, out)
    np.testing.assert_array_equal(out, np.concatenate([x[:64], x[:64]]))
    module.launch("missing_barrier", 1, 128, x, out, waves="backward")
    np.testing.assert_array_equal(out[:64], x[:64])
    assert np.isnan(out[64:]).all(), "LDS holds NaN until it is written"


def test_accesses_out_of_bounds_name_place_and_argument(module: Module) -> None:
    x, out = random(300), np.zeros(300, np.float32)
    place = r"axpy: workgroup 1, wave 0, pc 0x\w+, lane 44: global_load_dword v\w+, .*: reads 4 bytes at 0x\w+, "
    with pytest.raises(Fault, match=place + "0 bytes past the end of argument 2"):
        module.launch("axpy", 2, 256, 1.0, x, random(301), out, 301)
    with pytest.raises(Fault, match=r"lane 44: global_store_dword .*: writes 4 bytes .* past the end of argument 4"):
        module.launch("axpy", 2, 256, 1.0, random(301), random(301), out, 301)
    with pytest.raises(Fault, match=r"reads 4 bytes at 0x0, far from all memory of the launch"):
        module.launch("axpy", 2, 256, 1.0, None, x, out, 300)
    np.testing.assert_array_equal(out[:256], x[:256] + random(301)[:256], "what was written before stays")


def test_read_only_arrays_are_read_only(module: Module) -> None:
    x, out = random(64), np.zeros(64, np.float32)
    x.flags.writeable = out.flags.writeable = False
    with pytest.raises(Fault, match=r"writes 4 bytes at .*, in argument 4, which is read-only"):
        module.launch("axpy", 1, 64, 1.0, x, x, out, 64)
    assert not out.any()


def test_runaway_loops_end(module: Module) -> None:
    with pytest.raises(Fault, match=r"wait_for: workgroup 0, wave 0, .*: the wave has executed more than 1000 instr"):
        module.launch("wait_for", 1, 64, np.zeros(1, np.int32), max_instructions=1000)
    module.launch("wait_for", 1, 64, np.ones(1, np.int32), max_instructions=1000)


def test_workgroups_too_large_are_refused(module: Module) -> None:
    with pytest.raises(Fault, match="axpy: a workgroup of 1088 lanes; it can have 1 to 1024"):
        module.launch("axpy", 1, (17, 64), 1.0, None, None, None, 0)


X = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, X, X, X), "axpy(4 bytes, pointer, pointer, pointer, 4 bytes) takes 5 arguments, not 4"),
        ((1.0, X, X, X, 4, 4), "takes 5 arguments, not 6"),
        ((X, X, X, X, 4), "axpy, argument 1: it is a value of 4 bytes, not a pointer; an array does not fit"),
        ((1.0, 2.5, X, X, 4), "argument 2: a pointer takes an array, a tensor, an address or None, not float"),
        ((1.0, [1, 2], X, X, 4), "argument 2: a pointer takes an array, a tensor, an address or None, not list"),
        ((1.0, X, X, X, 2**32), "argument 5: 4294967296 does not fit 4 bytes"),
        ((1.0, X, X, X, None), "argument 5: it takes a number or bytes, not None"),
        ((1e39, X, X, X, 4), "argument 1: 1e+39 does not fit a float of 4 bytes"),
        ((np.float64(1), X, X, X, 4), "argument 1: it takes 4 bytes, numpy.float64 has 8"),
        ((b"1234567", X, X, X, 4), "argument 1: it takes 4 bytes, bytes has 7"),
        ((1.0, np.array([None]), X, X, 4), "argument 2: an array of Python objects has no values a kernel could read"),
        ((1.0, torch.empty(4, device="meta"), X, X, 4), "argument 2: the tensor is on meta; the emulator reaches the"),
    ],
)
def test_arguments_are_checked(module: Module, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        module.launch("axpy", 1, 4, *arguments)


def test_sizes_and_names_are_checked(module: Module) -> None:
    with pytest.raises(ValueError, match=r"no kernel 'axpby'; the code object holds axpy, positions, turns, "):
        module.launch("axpby", 1, 64)
    with pytest.raises(ValueError, match=r"grid takes one to three positive numbers, not \(1, 2, 3, 4\)"):
        module.launch("positions", (1, 2, 3, 4), 64, X)
    with pytest.raises(ValueError, match="block takes one to three positive numbers, not 0"):
        module.launch("positions", 1, 0, X)
    with pytest.raises(ValueError, match="forward, backward or shuffled, not sideways"):
        module.launch("positions", 1, 1, X, workgroups="sideways")


def test_what_is_no_code_object_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(CodeObjectError):
        Module(b"not an ELF file")
    with pytest.raises(CodeObjectError):
        Module(small.read_bytes()[:-3000])
    with pytest.raises(FileNotFoundError):
        Module(tmp_path / "none.hsaco")


def test_counters_are_those_of_the_core(module: Module) -> None:
    counts = module._program.launch("turns", (1, 1, 1), (64, 1, 1), bytes(16), [], workgroup_count=0)
    assert {name.rstrip("_") for name in (field.name for field in fields(Counters))} == set(counts)


def test_needs_neither_torch_nor_triton_and_is_not_imported_with_the_package() -> None:
    code = (
        "import sys, updp_rt; print('updp_rt.emulator' in sys.modules)\n"
        "import updp_rt.emulator; print([m for m in ('torch', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "[]"]


def test_a_core_that_is_not_built_says_how_to_build_it() -> None:
    code = (
        "import sys; sys.modules['updp_rt.emulator._core'] = None\n"
        "try:\n    import updp_rt.emulator\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the emulator's core is not built" in done.stdout
    assert "pip install -e ." in done.stdout
