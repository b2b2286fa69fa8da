"""HIP's kernels of a ResNet's stem, executed as on an MI100, against float64; outputs start as NaN."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels import problems
from tests.kernels.hip.running import DTYPES, run
from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel

KERNELS = [kernel for kernel in hip.load("gfx908").manifest.kernels if kernel.operator == "conv2d_max_pool"]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
# Batch, height, width; channels of the result. Bands, and rows of the convolution, that an image fills and does not;
# widths of one row of blocks, the last of which are full or not, and of several.
SIZES = [(2, 24, 16, 64), (1, 37, 40, 24), (1, 7, 224, 72), (1, 1, 8, 8), (1, 5, 232, 16), (1, 3, 440, 8)]


@every_kernel
@pytest.mark.parametrize("act", ["relu", "relu6"])
def test_agrees_with_float64(kernel: HipKernel, act: str) -> None:
    for number, (*size, out_channels) in enumerate(SIZES):
        problem = problems.conv2d_max_pool(tuple(size), out_channels, DTYPES[kernel.dtype], act, bias=number % 3 != 2)
        assert problem.error(run(problem, kernel)) is None, size


@every_kernel
def test_order_of_waves_and_workgroups_does_not_matter(kernel: HipKernel) -> None:
    problem = problems.conv2d_max_pool((2, 21, 232), 72, DTYPES[kernel.dtype], "relu")
    assert torch.equal(run(problem, kernel), run(problem, kernel, backward=True))


@every_kernel
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf], ids=str)
def test_a_value_is_kept_to_the_windows_that_have_it(kernel: HipKernel, value: float) -> None:
    problem = problems.conv2d_max_pool((1, 20, 224), 8, DTYPES[kernel.dtype], "relu6")
    x = problem.operands[0]
    assert isinstance(x, Tensor)
    for row, column in ((0, 0), (9, 50), (14, 97), (12, 190), (19, 223)):
        x[0, row % 3, row, column] = value
    assert problem.error(run(problem, kernel)) is None


@every_kernel
def test_the_largest_of_negative_sums_is_zero(kernel: HipKernel) -> None:
    x, weight, _, act = problems.conv2d_max_pool((1, 16, 16), 8, DTYPES[kernel.dtype], "relu").operands
    problem = problems.Problem(
        "conv2d_max_pool", (x, weight, torch.full((8,), -100.0).to(DTYPES[kernel.dtype]), act), 147
    )
    found = run(problem, kernel)
    assert torch.equal(found, torch.zeros_like(found))
    assert not found.signbit().any()


def test_what_does_not_fit_is_refused() -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.dtype == "float16")

    def stem(act: str = "relu", width: int = 16, out_channels: int = 8) -> Tensor:
        return run(problems.conv2d_max_pool((1, 9, width), out_channels, torch.float16, act), kernel)

    with pytest.raises(ValueError, match="act must be one of relu, relu6, not gelu"):
        stem(act="gelu")
    with pytest.raises(ValueError, match="multiples of 8"):
        stem(width=15)
    with pytest.raises(ValueError, match="multiples of 8"):
        stem(out_channels=12)
    with pytest.raises(ValueError, match=r"weight must be \[O, 3, 7, 7\], not \[8, 3, 5, 5\]"):
        hip.pack_conv2d_max_pool(torch.zeros(8, 3, 5, 5, dtype=torch.float16), kernel)
