"""``updp-rt emulate``: what it lists, runs, prints and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from updp_rt.cli import app
from updp_rt.cli.operands import parse_operand
from updp_rt.kernels.hip.compilers import find_compiler

SMALL = Path(__file__).parents[1] / "emulator" / "small.hip"
AXPY = ("--kernel", "axpy", "--grid", "4", "--block", "256")
ARGUMENTS = ("f32:2.5", "random:float32:1000", "ones:f32:10x100", "nan:float32:1000", "i32:1000")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("code") / "small.hsaco"
    find_compiler("gfx908").compile(SMALL, target)
    return str(target)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["emulate", *arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def given(*arguments: str) -> list[str]:
    return [part for argument in arguments for part in ("--arg", argument)]


def test_lists_the_kernels(small: str) -> None:
    status, out, _ = run(small)
    assert status == 0
    row = next(line for line in out.splitlines() if "missing_barrier" in line)
    assert "ptr, ptr" in row
    assert "512" in row  # bytes of LDS
    status, out, _ = run(small, "--json")
    kernels = {kernel["name"]: kernel for kernel in json.loads(out)}
    assert kernels["axpy"]["arguments"][0] == {"name": "", "value_kind": "by_value", "offset": 0, "size": 4}
    assert kernels["missing_barrier"]["lds_bytes"] == 512
    assert [kernel["name"] for kernel in json.loads(run(small, "--json", "--kernel", "turns")[1])] == ["turns"]


def test_runs_a_kernel_and_saves_what_it_wrote(small: str, tmp_path: Path) -> None:
    saved = [tmp_path / "x.npy", tmp_path / "out.npy"]
    order = ("--order", "shuffled", "--waves", "backward", "--seed", "7", "--threads", "2")
    status, out, _ = run(small, *AXPY, *given(*ARGUMENTS), *order, "--save", f"2={saved[0]}", "--save", f"4={saved[1]}")
    assert status == 0
    x, y = map(np.load, saved)
    np.testing.assert_array_equal(y, np.float32(2.5) * x + 1)
    assert f"{y[0]:.6g}" in out
    assert "10x100" in out
    assert "global loaded bytes" in out
    status, out, _ = run(small, *AXPY, *given("f32:1", str(saved[0]), *ARGUMENTS[2:]), "--json")
    found = json.loads(out)
    assert status == 0
    np.testing.assert_allclose(found["arguments"][3]["first"], x[:6] + 1)
    assert found["counters"]["global_stored_bytes"] == 4000


def test_values_that_json_has_not_are_text(small: str) -> None:
    _, out, _ = run(small, *AXPY, *given("f32:inf", *ARGUMENTS[1:4], "i32:1"), "--json")
    first = json.loads(out)["arguments"][3]["first"]
    assert first[0] in ("inf", "-inf")
    assert first[1] == "nan"


def test_disassembles(small: str) -> None:
    status, out, _ = run(small, "--kernel", "axpy", "--disassemble")
    assert status == 0
    assert out.startswith("axpy:\n")
    assert "s_endpgm" in out


def test_a_fault_ends_with_status_one(small: str) -> None:
    status, out, error = run(small, *AXPY, *given(*ARGUMENTS[:3], "nan:f32:999", "i32:1000"))
    assert (status, out) == (1, "")
    assert error.startswith("updp-rt: axpy: workgroup 3, wave 3")
    assert "past the end of argument 4" in error
    status, _, error = run(
        small, "--kernel", "wait_for", "--grid", "1", *given("zeros:i32:1"), "--max-instructions", "99"
    )
    assert status == 1
    assert "more than 99 instructions" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "4"), "name one of the kernels with --kernel: axpy, positions"),
        (("--kernel", "axpby"), "no kernel 'axpby'; the code object holds axpy, positions"),
        (("--arg", "i32:1"), "--arg and --save need --grid, which runs the kernel"),
        ((*AXPY, *given("i32:1")), "axpy(4 bytes, pointer, pointer, pointer, 4 bytes) takes 5 arguments, not 1"),
        (("--kernel", "axpy", "--grid", "4,0"), "--grid takes one to three numbers, such as 4 or 4,1,1, not '4,0'"),
        ((*AXPY, *given("f32:x")), "'f32:x': 'x' cannot be read as float32"),
        ((*AXPY, *given("u8:256")), "'u8:256': uint8 goes from 0 to 255"),
        ((*AXPY, *given("f33:1")), "'f33:1' is not an argument; write one of these: f32:2.5"),
        ((*AXPY, *given("zeros:f33:1")), "'zeros:f33:1': unknown dtype 'f33'; choose among float16, bfloat16"),
        ((*AXPY, *given("zeros:f32:4,4")), "'zeros:f32:4,4': '4,4' is not a shape; write 64 or 64x32"),
        ((*AXPY, *given("nan:i32:4")), "'nan:i32:4': int32 has no NaN"),
        ((*AXPY, *given("none.npy")), "none.npy: No such file or directory"),
        ((*AXPY, *given("f32:1"), "--save", "1=x.npy"), "--save 1=x.npy: argument 1 is not an array"),
        ((*AXPY, *given("f32:1"), "--save", "2=x.npy"), "--save takes N=out.npy with N from 1 to 1, not '2=x.npy'"),
    ],
)
def test_mistakes_are_one_line_and_status_two(small: str, arguments: tuple[str, ...], message: str) -> None:
    status, out, error = run(small, *arguments)
    assert (status, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_what_is_no_code_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a code object")
    status, _, error = run(str(tmp_path / "text"))
    assert status == 2
    assert error.startswith(f"updp-rt: {tmp_path / 'text'}: ")


def test_a_core_that_is_not_built_is_one_line(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "updp_rt.emulator", None)
    status, _, error = run(small)
    assert status == 2
    assert error.count("\n") == 1


def test_operands() -> None:
    rng = np.random.default_rng(0)
    assert parse_operand("null", rng).value is None
    assert parse_operand("i8:-0x10", rng).value == np.int8(-16)
    assert parse_operand("bf16:1.00390625", rng).value == np.uint16(0x3F80)  # a tie, to even
    assert parse_operand("bfloat16:nan", rng).value == np.uint16(0x7FC0)
    halves = parse_operand("random:bf16:64x3", rng)
    assert halves.value.dtype == np.uint16
    assert halves.array.shape == (64, 3)
    assert 0.5 < halves.array.std() < 1.5
    for kind, low, high in (("i32", -8, 8), ("u16", 0, 16)):
        values = parse_operand(f"random:{kind}:1000", rng).array
        assert (values.min(), values.max()) == (low, high)
