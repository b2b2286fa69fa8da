"""HIP's kernels of layer norms, launched as on an MI100 and executed, against float64; outputs start as NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels import problems
from tests.kernels.hip.running import DTYPES, run
from tests.kernels.problems import Problem, spoiled
from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel
from updp_rt.ops import ACTIVATIONS

KERNELS = hip.load("gfx908").manifest.kernels
NORMS = [kernel for kernel in KERNELS if kernel.operator in ("layer_norm", "add_layer_norm")]
LINEARS = [kernel for kernel in KERNELS if kernel.operator == "norm_linear"]
every_norm = pytest.mark.parametrize("kernel", NORMS, ids=lambda kernel: kernel.name)
every_linear = pytest.mark.parametrize("kernel", LINEARS, ids=lambda kernel: kernel.name)


def norm(kernel: HipKernel, rows: int, columns: int, **given: bool) -> Problem:
    make: Callable[..., Problem] = getattr(problems, kernel.operator)
    return make(rows, columns, DTYPES[kernel.dtype], **given)


def right(problem: Problem, kernel: HipKernel) -> Tensor:
    found = run(problem, kernel)
    assert problem.error(found) is None
    return found


@every_norm
def test_rows_shorter_and_longer_than_a_block(kernel: HipKernel) -> None:
    rows, block = kernel.block
    for m, n in ((2 * rows + 3, block), (rows + 1, block - 8), (3, 8), (5, block + 24), (2, 2 * block + 8)):
        right(norm(kernel, m, n, gap=8), kernel)


@every_norm
def test_with_and_without_a_weight_and_a_bias(kernel: HipKernel) -> None:
    for weight, bias in ((False, True), (True, False), (False, False)):
        right(norm(kernel, 6, 48, weight=weight, bias=bias), kernel)


@pytest.mark.parametrize("kernel", [k for k in NORMS if not k.aligned], ids=lambda kernel: kernel.name)
def test_any_number_of_columns(kernel: HipKernel) -> None:
    for columns in (1, 2, 7, 33, 191, 513):
        right(norm(kernel, 7, columns, gap=3), kernel)


@every_norm
def test_order_of_waves_and_workgroups_does_not_matter(kernel: HipKernel) -> None:
    problem = norm(kernel, 2 * kernel.block[0] + 1, 96)
    assert torch.equal(run(problem, kernel, backward=True), run(problem, kernel))


@pytest.mark.parametrize("kernel", [*NORMS, *LINEARS], ids=lambda kernel: kernel.name)
def test_nan_stays_in_its_row(kernel: HipKernel) -> None:
    if kernel in LINEARS:
        problem = problems.norm_linear(70, 72, 136, DTYPES[kernel.dtype], "relu6")
    else:
        problem = norm(kernel, 9, 136)
    right(spoiled(problem), kernel)


@every_linear
def test_every_activation(kernel: HipKernel) -> None:
    for act, bias in zip(ACTIVATIONS, (True, False, True, True, False), strict=True):
        right(problems.norm_linear(9, 24, 40, DTYPES[kernel.dtype], act, bias=bias, gap=8), kernel)


@every_linear
def test_several_tiles_in_any_order(kernel: HipKernel) -> None:
    problem = problems.norm_linear(197, 200, 136, DTYPES[kernel.dtype], "gelu")
    assert torch.equal(run(problem, kernel, backward=True), right(problem, kernel))


@every_linear
def test_layers_of_the_models(kernel: HipKernel) -> None:
    for m, n, k in ((131, 576, 192), (49, 384, 96)):
        right(problems.norm_linear(m, n, k, DTYPES[kernel.dtype], "none"), kernel)


@pytest.mark.parametrize("kernel", [k for k in LINEARS if not k.aligned], ids=lambda kernel: kernel.name)
def test_sizes_that_vectors_do_not_fit(kernel: HipKernel) -> None:
    for m, n, k in ((67, 131, 45), (1, 1, 1), (3, 5, 2), (33, 7, 97)):
        right(problems.norm_linear(m, n, k, DTYPES[kernel.dtype], "relu", gap=3), kernel)


@every_linear
def test_rows_whose_first_values_are_far_from_the_others(kernel: HipKernel) -> None:
    """The pivot is the mean of the first values: as wrong as it can be, and with values near the dtype's largest."""
    dtype = DTYPES[kernel.dtype]
    x, *rest = problems.norm_linear(32, 24, 768, dtype, "none").operands
    assert isinstance(x, Tensor)
    x[:8, :32] += 200.0
    x[8:16, 0] = 3000.0
    x[16:24] = 60000 * torch.sign(torch.randn(8, 768)).to(dtype)
    x[24:, :64] = 64000.0
    x[24:, 64:] = -64000.0
    right(Problem("norm_linear", (x, *rest), 768), kernel)


@every_linear
def test_rows_of_one_value_give_the_bias(kernel: HipKernel) -> None:
    x, weight, sums, bias, eps, act = problems.norm_linear(8, 24, 96, DTYPES[kernel.dtype], "none").operands
    x[:] = torch.tensor([0.0, 1.0, -3.0, 0.1, 1000.0, 3e4, 1e-7, 6e-5])[:, None]
    found = run(Problem("norm_linear", (x, weight, sums, bias, eps, act), 96), kernel)
    assert torch.allclose(found.float(), bias.float().expand(8, 24), atol=1e-6)


def test_arguments_that_do_not_fit_are_named() -> None:
    kernel = next(k for k in NORMS if k.name == "layer_norm_float16_32x192w4")
    x, weight = torch.zeros(4, 16, dtype=torch.float16), torch.zeros(16)
    for message, arguments in {
        r"weight must be contiguous \[16\]": (x, weight[:8], None, 1e-5),
        "HIP kernels take biases in float32": (x, weight.half(), None, 1e-5),
        "eps must be at least 0, not -1": (x, weight, None, -1.0),
        "x has no columns": (x[:, :0], None, None, 1e-5),
        "multiples of 8": (x[:, :15], None, None, 1e-5),
    }.items():
        with pytest.raises(ValueError, match=message):
            hip.layer_norm(*arguments, kernel)
