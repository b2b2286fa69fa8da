"""HIP's kernels of tokens behind a prefix, launched as on an MI100 and executed; outputs start as NaN."""

from __future__ import annotations

import pytest
import torch

from tests.kernels import problems
from tests.kernels.hip.running import DTYPES, run
from tests.kernels.problems import Problem, spoiled
from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel

KERNELS = [kernel for kernel in hip.load("gfx908").manifest.kernels if kernel.operator == "prepend_tokens"]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def tokens(kernel: HipKernel, *sizes: int) -> Problem:
    return problems.prepend_tokens(*sizes, dtype=DTYPES[kernel.dtype])


@every_kernel
def test_images_shorter_and_longer_than_a_tile(kernel: HipKernel) -> None:
    rows, columns = kernel.block
    for sizes in (
        (2, rows + 5, 1, columns + 8),
        (5, rows // 3, 2, 8),
        (3 * rows, 1, 1, 16),
        (3, 9, 0, 24),
        (1, 3, 40, 8),
    ):
        problem = tokens(kernel, *sizes)
        assert problem.error(run(problem, kernel)) is None, sizes


@pytest.mark.parametrize("kernel", [k for k in KERNELS if not k.aligned], ids=lambda kernel: kernel.name)
def test_any_number_of_columns(kernel: HipKernel) -> None:
    for columns in (1, 7, 33, 191):
        problem = tokens(kernel, 3, 5, 1, columns)
        assert problem.error(run(problem, kernel)) is None, columns


@every_kernel
def test_nan_stays_in_its_image(kernel: HipKernel) -> None:
    problem = spoiled(tokens(kernel, 2, 19, 1, 24))
    assert problem.error(run(problem, kernel)) is None


@every_kernel
def test_order_of_waves_and_workgroups_does_not_matter(kernel: HipKernel) -> None:
    problem = tokens(kernel, 3, 70, 1, 72)
    assert torch.equal(run(problem, kernel, backward=True), run(problem, kernel))


def test_tokens_that_do_not_fit_are_refused() -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.dtype == "float16" and kernel.aligned)
    x, table = tokens(kernel, 2, 5, 1, 24).operands
    assert isinstance(x, torch.Tensor)
    assert isinstance(table, torch.Tensor)
    for message, operands in (
        (r"table must be \[P \+ 5, 24\], not \[4, 24\]", (x, table[:4])),
        (r"table must be contiguous \[6, 24\]", (x, torch.zeros(6, 32, dtype=x.dtype))),
        (r"x must be tokens \[N, T, C\], not \[10, 24\]", (x.flatten(0, 1), table)),
        ("multiples of 8", (x[..., :20].contiguous(), table[:, :20].contiguous())),
    ):
        with pytest.raises(ValueError, match=message):
            hip.prepend_tokens(*operands, kernel)
