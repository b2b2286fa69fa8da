"""A code object, loaded to be run."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from updp_rt.emulator._core import Fault, Program
from updp_rt.emulator.arguments import Array, Value, memory, names, pack
from updp_rt.emulator.counters import Counters
from updp_rt.emulator.kernel import Kernel

ARCHITECTURE = "gfx908"


class Instruction(NamedTuple):
    """One line of a kernel's text: `address` from the start of the image and `size`, in bytes."""

    address: int
    size: int
    mnemonic: str
    operands: str


class Module:
    """A code object for gfx908, as hipcc, clang and Triton write it.

    Args:
        code: its file, or its bytes; an ELF file or a clang offload bundle.

    Attributes:
        kernels: what it holds, by name.

    Raises:
        CodeObjectError: damaged, or for another GPU.
    """

    kernels: Mapping[str, Kernel]

    def __init__(self, code: Path | str | bytes) -> None:
        self._program = Program(code if isinstance(code, bytes) else Path(code).read_bytes(), ARCHITECTURE)
        self.kernels = MappingProxyType({record["name"]: Kernel.of(record) for record in self._program.kernels})

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *arguments: Value,
        dynamic_lds: int = 0,
        extra: Iterable[Array] = (),
        workgroups: Literal["forward", "backward", "shuffled"] = "forward",
        waves: Literal["forward", "backward"] = "forward",
        seed: int = 0,
        first_workgroup: int = 0,
        workgroup_count: int | None = None,
        max_instructions: int | None = None,
        threads: int = 1,
        l1_bytes: int = 0,
        executions: dict[int, int] | None = None,
    ) -> Counters:
        """Run a kernel to its end.

        Args:
            kernel: its name.
            grid: workgroups, one to three numbers.
            block: lanes per workgroup, one to three numbers.
            arguments: one for each of the kernel's, hidden ones left out. Pointers take numpy arrays (views too),
                CPU tensors, addresses and None; others take ints, floats, numpy scalars of the argument's size, or
                bytes (a struct). A code object does not tell an int from a float: write 2.0 for a float, not 2.
            dynamic_lds: bytes of LDS per workgroup beyond what the kernel declares.
            extra: arrays the kernel reaches through pointers stored in others.
            workgroups: the order they run in. A correct kernel does not depend on it.
            waves: the order a workgroup's waves run in between barriers. If results depend on it, a barrier is missing.
            seed: for the shuffled order.
            first_workgroup, workgroup_count: a part of the grid, x fastest; all by default.
            max_instructions: a wave that executes more raises Fault; no limit by default.
            threads: threads of this machine; 0 uses all of them. Workgroups are divided among them.
            l1_bytes: size of each workgroup's own first-level cache (4 ways, LRU); affects `Counters.l2_lines` alone.
            executions: receives how often waves executed each instruction, by its address in `disassemble`.

        The kernel may touch what the arrays hold (a tensor: its whole storage), and writes only where numpy may.

        Raises:
            Fault: the kernel did something that goes wrong on hardware. What it wrote before that stays.
            ValueError: no such kernel, or arguments or sizes that it does not take.
        """
        described = self._kernel(kernel)
        segment = pack(described, arguments)
        given = [*zip(names(described), arguments, strict=True)]
        given += [(f"extra array {position}", array) for position, array in enumerate(extra, start=1)]
        ranges = {name: span for name, value in given if (span := memory(value)) is not None}
        try:
            counts = self._program.launch(
                kernel,
                _three("grid", grid),
                _three("block", block),
                segment,
                list(ranges.values()),
                dynamic_lds=dynamic_lds,
                workgroups=workgroups,
                waves=waves,
                seed=seed,
                first_workgroup=first_workgroup,
                workgroup_count=workgroup_count,
                max_instructions=max_instructions or 0,
                threads=threads,
                l1_bytes=l1_bytes,
                executions=executions,
            )
        except Fault as fault:
            owners = list(ranges)
            message = re.sub(r"memory range (\d+)", lambda found: owners[int(found[1])], str(fault))
            raise Fault(message) from None
        return Counters.of(counts)

    def disassemble(self, kernel: str) -> list[Instruction]:
        """The kernel's instructions, as LLVM writes them; ValueError if there is no such kernel."""
        return [Instruction(*line) for line in self._program.disassemble(self._kernel(kernel).name)]

    def _kernel(self, name: str) -> Kernel:
        if name not in self.kernels:
            raise ValueError(f"no kernel {name!r}; the code object holds {', '.join(self.kernels) or 'none'}")
        return self.kernels[name]


def _three(name: str, sizes: int | Sequence[int]) -> tuple[int, int, int]:
    given = [operator.index(size) for size in (sizes if isinstance(sizes, Sequence) else [sizes])]
    if not 1 <= len(given) <= 3 or min(given) < 1:
        raise ValueError(f"{name} takes one to three positive numbers, not {sizes}")
    x, y, z = given + [1] * (3 - len(given))
    return x, y, z
