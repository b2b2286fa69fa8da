"""Counts what a launch executes by running a few of its workgroups on the emulator, at the launch's real sizes.

The first workgroup, one from the middle and the last one run; the middle one counts for all between. What is counted
hardly depends on values (an activation may branch on them), so large tensors may be memory that was never touched.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from updp_rt.emulator import Counters, Kernel, Module, run_triton
from updp_rt.kernels.hip.device import Device, emulated_mi100
from updp_rt.projection.machine import MI100
from updp_rt.projection.model import Launch, Work, resident_workgroups
from updp_rt.projection.stalls import stall_cycles

if TYPE_CHECKING:
    import triton

    from updp_rt.kernels.hip import HipKernel
    from updp_rt.kernels.triton import Tile


@contextmanager
def sampled_hip() -> Iterator[list[Launch]]:
    """Within it, HIP kernels take CPU tensors, a few workgroups of each launch run, and the list gets a `Launch`.

    Results are left unwritten for the most part: they are of no use.
    """
    device = _SamplingDevice()
    with emulated_mi100(device):
        yield device.launches


@contextmanager
def sampled_triton(operator: str, tile: Tile) -> Iterator[list[Launch]]:
    """As `sampled_hip`, for the Triton kernel of `operator`, called with `tile`."""
    launches: list[Launch] = []
    import updp_rt.kernels.triton  # noqa: F401 - the operators' modules, where each finds its kernel

    module, name = sys.modules[f"updp_rt.kernels.triton.{operator}"], f"{operator}_kernel"
    kernel = getattr(module, name)
    setattr(module, name, _sampler(kernel, tile, launches.append))
    try:
        yield launches
    finally:
        setattr(module, name, kernel)


class _SamplingDevice(Device):
    """Stands in for an MI100, and executes samples of what it is told to launch."""

    def __init__(self) -> None:
        super().__init__("gfx908", "hip")
        self.launches: list[Launch] = []

    def launch(
        self, kernel: HipKernel, grid: int, arguments: Sequence[Tensor | float | None], stream: int | None = None
    ) -> None:
        module = _module(self.objects.code(kernel.operator))
        described = module.kernels[kernel.name]

        def run(**options: Any) -> Counters:
            return module.launch(kernel.name, grid, kernel.waves * described.wavefront_size, *arguments, **options)

        self.launches.append(_sampled(module, described, grid, kernel.waves, 0, run))

    def loaded(self, kernel: HipKernel) -> None:
        """Nothing is loaded ahead."""


def _sampler(kernel: triton.JITFunction, tile: Tile, found: Callable[[Launch], None]) -> object:
    """Takes the place of `kernel`: ``kernel[grid](...)`` compiles as a launch would, and samples it."""

    from updp_rt.kernels.triton.ahead import compile_launch

    class Launcher:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def launch(*arguments: object, **keywords: object) -> None:
                values = dict(zip(kernel.arg_names, arguments, strict=False)) | keywords
                compiled, given = compile_launch(kernel, tile, "gfx908", values)
                module = _module(compiled.asm["hsaco"])
                described = module.kernels[compiled.metadata.name]

                def run(**options: Any) -> Counters:
                    return run_triton(compiled, grid, *given, **options)

                shared = compiled.metadata.shared
                found(_sampled(module, described, grid[0], tile.num_warps, shared, run))

            return launch

    return Launcher()


def _sampled(
    module: Module, kernel: Kernel, workgroups: int, waves: int, dynamic_lds: int, run: Callable[..., Counters]
) -> Launch:
    """The launch of `workgroups` workgroups, of which `run`, with keywords of `Module.launch`, executes some."""
    registers = {"vgprs": kernel.vgprs, "agprs": kernel.agprs, "sgprs": kernel.sgprs}
    resident = resident_workgroups(**registers, lds=kernel.lds_bytes + dynamic_lds, waves=waves)
    options = {"workgroup_count": 1, "l1_bytes": MI100.l1_bytes // max(1, resident)}
    samples: list[tuple[Counters, int]] = []
    executions: Counter[int] = Counter()
    for first, weight in _sample(workgroups):
        executed: dict[int, int] = {}
        samples.append((run(first_workgroup=first, executions=executed, **options), weight))
        executions.update({address: times * weight for address, times in executed.items()})
    work = Work.mean(samples)
    mfma_cycles = work.matrix_cycles / work.matrix if work.matrix else 0.0
    by_wave = {address: times / (workgroups * waves) for address, times in executions.items()}
    return Launch(
        workgroups=workgroups,
        waves=waves,
        **registers,
        lds=kernel.lds_bytes + dynamic_lds,
        work=work,
        stalls=stall_cycles(module.disassemble(kernel.name), by_wave, mfma_cycles),
    )


def _sample(workgroups: int) -> list[tuple[int, int]]:
    """Which workgroups run, and for how many each stands."""
    last = workgroups - 1
    if last < 3:
        return [(index, 1) for index in range(workgroups)]
    return [(0, 1), (workgroups // 2, workgroups - 2), (last, 1)]


@cache
def _module(code: bytes) -> Module:
    return Module(code)
