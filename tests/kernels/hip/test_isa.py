"""What the compiler made of every HIP kernel for gfx908: the budgets that each of them must keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel, build, compilers, manifest

WITHOUT_CONTRACTION = ("epilogue", "layer_norm", "add_layer_norm", "prepend_tokens", "max_pool", "average_pool")
# With newer compilers, one or two registers each.
SPILLS = {
    ("clang-16", "mlp_float32_64x192x192w4"),
    ("clang-16", "mlp_float16_128x192x192w4"),
    ("clang-19", "mlp_float16_128x192x192w4"),
}
LDS = 64 * 1024  # bytes of a compute unit
every_kernel = pytest.mark.parametrize("kernel", hip.load("gfx908").manifest.kernels, ids=lambda kernel: kernel.name)


@every_kernel
def test_nothing_spills(kernel: HipKernel) -> None:
    assert (kernel.figures.spills, kernel.figures.scratch) == (0, 0)


@every_kernel
def test_two_waves_fit_a_simd(kernel: HipKernel) -> None:
    assert kernel.figures.occupancy is not None
    assert kernel.figures.occupancy >= 2
    assert kernel.figures.lds <= LDS


@every_kernel
def test_contractions_run_on_the_matrix_units(kernel: HipKernel) -> None:
    assert kernel.figures.matrix is not None
    by_value = kernel.operator == "depthwise_conv2d" and not kernel.aligned  # one value a lane, one tap after another
    assert (kernel.figures.matrix > 0) == (kernel.operator not in WITHOUT_CONTRACTION and not by_value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"clang-{number}" for number in range(15, 25)), "clang", "hipcc"])
def test_every_compiler_that_is_installed_keeps_the_budgets(name: str, tmp_path: Path) -> None:
    found = [compiler for compiler in compilers._candidates("gfx908") if Path(compiler.program).name == name]
    if not found:
        pytest.skip(f"{name} is not installed")
    for source in sorted(manifest.SOURCES.glob("*.hip")):
        for kernel in build._compile(found[0], source, tmp_path):
            if (name, kernel.name) not in SPILLS:
                test_nothing_spills(kernel)
            test_two_waves_fit_a_simd(kernel)
            test_contractions_run_on_the_matrix_units(kernel)
