"""Runs code objects for gfx908 (AMD MI100, CDNA1) on the CPU, lane by lane, and says what they did wrong.

    module = Module(Path("axpy.hsaco"))
    module.launch("axpy", n // 256, 256, 2.5, x, y, out, n)  # numpy arrays and CPU tensors, changed in place

What would go wrong on real hardware raises `Fault`: an access outside the memory given, a register read before its
load was waited for, an instruction the GPU lacks. `run_triton` runs what Triton compiled for
``GPUTarget("hip", "gfx908", 64)``. Needs numpy, but neither torch nor triton; ``import updp_rt`` does not load it.
"""

try:
    from updp_rt.emulator._core import CodeObjectError, Fault
except ImportError as error:
    raise ImportError(
        f"the emulator's core is not built for this Python ({error}); build it with `make setup`, "
        "or `pip install -e .` in the checkout (needs a C++17 compiler)"
    ) from error

from updp_rt.emulator.counters import Counters
from updp_rt.emulator.kernel import Argument, Kernel
from updp_rt.emulator.module import Instruction, Module
from updp_rt.emulator.triton import run_triton

__all__ = [
    "Argument",
    "CodeObjectError",
    "Counters",
    "Fault",
    "Instruction",
    "Kernel",
    "Module",
    "run_triton",
]
