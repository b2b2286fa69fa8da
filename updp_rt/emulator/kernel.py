"""What a code object says about its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel.

    Attributes:
        name: as in the source; empty where the compiler left it out.
        value_kind: ``by_value`` (a number or a struct), ``global_buffer`` (a pointer), ``hidden_...`` (filled in by
            the launcher), or a rarer one from LLVM's AMDGPU usage guide.
        offset: bytes from the start of the kernel's argument segment.
        size: bytes.
    """

    name: str
    value_kind: str
    offset: int
    size: int

    @property
    def is_hidden(self) -> bool:
        return self.value_kind.startswith("hidden")

    @property
    def is_pointer(self) -> bool:
        return self.value_kind == "global_buffer"

    def __str__(self) -> str:
        kind = "pointer" if self.is_pointer else f"{self.size} bytes"
        return f"{self.name}: {kind}" if self.name else kind


@dataclass(frozen=True)
class Kernel:
    """One kernel of a code object.

    Attributes:
        arguments: those a launch gives, in order; hidden ones are left out.
        kernarg_bytes: of the argument segment, hidden arguments included.
        lds_bytes: static LDS per workgroup; dynamic LDS comes on top.
        scratch_bytes: private memory per lane.
        vgprs, agprs, sgprs: vector and accumulation registers per lane, scalar registers per wave.
        vgpr_spills, sgpr_spills: registers the compiler spilled.
        max_workgroup_size: lanes.
        wavefront_size: lanes.
    """

    name: str
    arguments: tuple[Argument, ...]
    kernarg_bytes: int
    lds_bytes: int
    scratch_bytes: int
    vgprs: int
    agprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    max_workgroup_size: int
    wavefront_size: int

    @property
    def signature(self) -> str:
        """Such as ``axpy(a: 4 bytes, x: pointer, n: 4 bytes)``."""
        return f"{self.name}({', '.join(map(str, self.arguments))})"

    @classmethod
    def of(cls, record: dict[str, Any]) -> Kernel:
        """From the core's record, which also holds what only a launch needs."""
        arguments = (Argument(**argument) for argument in record["arguments"])
        given = tuple(argument for argument in arguments if not argument.is_hidden)
        others = {name: record[name] for name in cls.__dataclass_fields__ if name != "arguments"}
        return cls(arguments=given, **others)
