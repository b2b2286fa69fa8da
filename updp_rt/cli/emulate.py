"""``emulate``: what a gfx908 code object holds, and what its kernels do, without a GPU."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from updp_rt.cli.app import app
from updp_rt.cli.common import out, print_json

if TYPE_CHECKING:
    from updp_rt.cli.operands import Operand
    from updp_rt.emulator import Counters, Kernel, Module

SHOWN = 6  # values of an array
_EXAMPLE = (
    "Example: updp-rt emulate axpy.hsaco --grid 4 --block 256 --arg f32:2.5 --arg random:float32:1024 "
    "--arg ones:float32:1024 --arg nan:float32:1024 --arg i32:1024 --order shuffled --save 4=out.npy"
)


class Order(StrEnum):
    """Order of workgroups."""

    forward = "forward"
    backward = "backward"
    shuffled = "shuffled"


class Waves(StrEnum):
    """Order of a workgroup's waves, between barriers."""

    forward = "forward"
    backward = "backward"


@app.command(epilog=_EXAMPLE)
def emulate(
    code_object: Annotated[Path, typer.Argument(help="What hipcc, clang or Triton wrote.", show_default=False)],
    kernel: Annotated[str | None, typer.Option(help="Which kernel; may be left out if there is only one.")] = None,
    grid: Annotated[str | None, typer.Option(help="Run the kernel on so many workgroups, such as 4 or 4,1,1.")] = None,
    block: Annotated[str, typer.Option(help="Lanes per workgroup, such as 256 or 16,16.")] = "64",
    arg: Annotated[
        list[str] | None,
        typer.Option(
            help="The next argument: f32:2.5, i32:9, random:float16:64x32 (or zeros, ones, nan), x.npy, null.",
            show_default=False,
        ),
    ] = None,
    dynamic_lds: Annotated[int, typer.Option(min=0, help="Bytes of LDS beyond what the kernel declares.")] = 0,
    order: Annotated[Order, typer.Option(help="Order of workgroups.")] = Order.forward,
    waves: Annotated[Waves, typer.Option(help="Order of a workgroup's waves between barriers.")] = Waves.forward,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random values and of the shuffled order.")] = 0,
    max_instructions: Annotated[int, typer.Option(min=1, help="Most that a wave may execute.")] = 100_000_000,
    threads: Annotated[int, typer.Option(min=0, help="Threads of this machine; 0 uses all of them.")] = 1,
    save: Annotated[
        list[str] | None,
        typer.Option(help="After the run, write argument N, counted from 1: N=out.npy.", show_default=False),
    ] = None,
    disassemble: Annotated[
        bool, typer.Option("--disassemble", help="Print the kernel's instructions instead.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the kernels of CODE_OBJECT, or run one on an emulated MI100.

    A kernel compiled by Triton takes two null pointers after its own arguments, and its shared memory as --dynamic-lds.
    Ends with status 1 if the kernel did something that goes wrong on hardware.
    """
    import numpy as np

    from updp_rt.cli.operands import parse_operand

    module = _open(code_object)
    if disassemble:
        _print_text(module, _choose(module, kernel).name)
        return
    if grid is None:
        if arg or save:
            raise ValueError("--arg and --save need --grid, which runs the kernel")
        _print_kernels(module.kernels.values() if kernel is None else [_choose(module, kernel)], json)
        return
    chosen = _choose(module, kernel)
    rng = np.random.default_rng(seed)
    operands = [parse_operand(text, rng) for text in arg or []]
    files = dict(_file(text, operands) for text in save or [])
    counters = _run(
        module,
        chosen.name,
        _sizes("--grid", grid),
        _sizes("--block", block),
        operands,
        dynamic_lds=dynamic_lds,
        workgroups=order.value,
        waves=waves.value,
        seed=seed,
        max_instructions=max_instructions,
        threads=threads,
    )
    for path, position in files.items():
        np.save(path, operands[position].array)  # type: ignore[arg-type]  # _file saw that it is one
    _print_run(chosen, operands, counters, json)


def _open(path: Path) -> Module:
    try:
        from updp_rt.emulator import CodeObjectError, Module
    except ImportError as error:
        raise ValueError(str(error)) from error
    try:
        return Module(path)
    except CodeObjectError as error:
        raise ValueError(f"{path}: {error}") from error


def _choose(module: Module, name: str | None) -> Kernel:
    names = ", ".join(module.kernels)
    if name is None and len(module.kernels) != 1:
        raise ValueError(f"name one of the kernels with --kernel: {names}")
    if name is not None and name not in module.kernels:
        raise ValueError(f"no kernel {name!r}; the code object holds {names}")
    return module.kernels[name or names]


def _sizes(option: str, text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) > 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{option} takes one to three numbers, such as 4 or 4,1,1, not {text!r}")
    return [int(part) for part in parts]


def _file(text: str, operands: Sequence[Operand]) -> tuple[Path, int]:
    number, _, path = text.partition("=")
    if not path or not number.isdigit() or not 1 <= int(number) <= len(operands):
        raise ValueError(f"--save takes N=out.npy with N from 1 to {len(operands)}, not {text!r}")
    if operands[int(number) - 1].array is None:
        raise ValueError(f"--save {text}: argument {number} is not an array")
    return Path(path), int(number) - 1


def _run(
    module: Module, kernel: str, grid: list[int], block: list[int], operands: Sequence[Operand], **options: Any
) -> Counters:
    from updp_rt.emulator import Fault

    try:
        return module.launch(kernel, grid, block, *(operand.value for operand in operands), **options)
    except Fault as fault:
        print(f"updp-rt: {fault}", file=sys.stderr)
        raise typer.Exit(1) from fault


def _print_kernels(kernels: Iterable[Kernel], json: bool) -> None:
    if json:
        print_json([asdict(kernel) for kernel in kernels])
        return
    table = Table()
    for column in ("kernel", "arguments"):
        table.add_column(column, overflow="fold")
    for column in ("VGPR", "Acc", "SGPR", "spills", "LDS", "scratch", "lanes"):
        table.add_column(column, justify="right")
    for kernel in kernels:
        spills = kernel.vgpr_spills + kernel.sgpr_spills
        figures = (kernel.vgprs, kernel.agprs, kernel.sgprs, spills, kernel.lds_bytes, kernel.scratch_bytes)
        arguments = ", ".join("ptr" if argument.is_pointer else f"{argument.size} B" for argument in kernel.arguments)
        table.add_row(escape(kernel.name), escape(arguments), *map(str, figures), f"≤ {kernel.max_workgroup_size}")
    table.caption = (
        "registers per wave, and those spilled; bytes of LDS per workgroup and of scratch per lane; lanes per workgroup"
    )
    table.caption_justify = "left"
    out.print(table)


def _print_text(module: Module, kernel: str) -> None:
    print(f"{kernel}:")
    for line in module.disassemble(kernel):
        print(f"  {line.address:6x}  {line.mnemonic} {line.operands}".rstrip())


def _print_run(kernel: Kernel, operands: Sequence[Operand], counters: Counters, json: bool) -> None:
    if json:
        arguments = [
            {"given": operand.text, "first": [v if math.isfinite(v) else str(v) for v in _first(operand)]}
            for operand in operands
        ]
        print_json({"kernel": kernel.name, "arguments": arguments, "counters": asdict(counters)})
        return
    table = Table(title="arguments after the run", title_justify="left")
    for column in ("", "given", "shape", "first values"):
        table.add_column(column)
    for number, operand in enumerate(operands, start=1):
        shape = "" if operand.array is None else "x".join(map(str, operand.array.shape))
        first = "  ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in _first(operand))
        table.add_row(str(number), escape(operand.text), shape, first)
    out.print(table)
    figures = Table(title="counters", title_justify="left", show_header=False)
    figures.add_column()
    figures.add_column(justify="right")
    for name, count in asdict(counters).items():
        figures.add_row(name.rstrip("_").replace("_", " "), f"{count:,}")
    out.print(figures)


def _first(operand: Operand) -> list[Any]:
    return [] if operand.array is None else operand.array.reshape(-1)[:SHOWN].tolist()
