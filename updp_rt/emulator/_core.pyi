"""The compiled core (csrc/emulator): one code object, executed over plain bytes and addresses."""

from collections.abc import Sequence
from typing import Any

class Fault(RuntimeError):  # noqa: N818 - as in C++
    """A kernel did what real hardware would not do right; names kernel, workgroup, wave, pc, lane and instruction."""

class CodeObjectError(ValueError):
    """Not a whole, sound code object for gfx908."""

def operations() -> list[tuple[str, str, int]]:
    """All operations that are executed: name, encoding and opcode."""

class Program:
    def __init__(self, code: bytes, arch: str = "") -> None: ...
    @property
    def arch(self) -> str: ...
    @property
    def kernels(self) -> list[dict[str, Any]]: ...
    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        kernarg: bytes,
        memory: Sequence[tuple[int, int, bool]],
        *,
        dynamic_lds: int = 0,
        workgroups: str = "forward",
        waves: str = "forward",
        seed: int = 0,
        first_workgroup: int = 0,
        workgroup_count: int | None = None,
        max_instructions: int = 0,
        threads: int = 1,
        l1_bytes: int = 0,
        executions: dict[int, int] | None = None,
    ) -> dict[str, int]: ...
    def disassemble(self, kernel: str) -> list[tuple[int, int, str, str]]: ...
