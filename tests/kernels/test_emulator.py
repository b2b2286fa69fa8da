"""Compiled gfx908 code of every operator, dtype and tile, executed, against float64; outputs poisoned with NaN."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from tests.kernels import problems
from tests.kernels.emulator import emulated
from tests.kernels.poison import poison_fresh_memory
from tests.kernels.problems import Problem, called, spoiled
from updp_rt.kernels import triton as operators
from updp_rt.kernels.triton import Tile, tiles
from updp_rt.ops import ACTIVATIONS

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Those with an epilogue; attention's are in test_attention.py.
OPERATORS = tuple(operator for operator in operators.OPERATORS if operator != "attention")
EVERY_TILE = [
    pytest.param(
        operator,
        dtype,
        tile,
        id=f"{operator}-{str(dtype)[6:]}-{tile.name}",
        # Of norms alone, which are all alike, the wider tiles in one dtype.
        marks=pytest.mark.slow
        if (operator, dtype in DTYPES[1:], tile.block_m < 32) == ("layer_norm", True, True)
        else (),
    )
    for operator in OPERATORS
    for dtype in DTYPES
    for tile in tiles(operator, "gfx908", dtype)
]

# Multiples of 16, where loads are wide and unmasked (the kernels whose registers test_ahead_of_time counts, so that
# they are compiled once); of 8, where loads are wide too; and odd sizes.
ALIGNED: dict[str, Callable[[torch.dtype], Problem]] = {
    "linear": lambda dtype: problems.linear(131, 144, 192, dtype, "gelu"),
    "conv2d": lambda dtype: problems.conv2d((3, 32, 9, 7), 144, (3, 3), dtype, "gelu"),
    "depthwise_pointwise": lambda dtype: problems.depthwise_pointwise((1, 80, 9, 10), 272, 7, dtype, "gelu"),
    "dual_linear": lambda dtype: problems.dual_linear(131, 144, 128, 64, dtype, "gelu"),
    "mlp": lambda dtype: problems.mlp(131, 144, 128, 192, dtype, "gelu", eps=1e-5),
    "inverted_residual": lambda dtype: problems.inverted_residual((1, 32, 9, 10), 96, 48, dtype, "gelu"),
    "depthwise_conv2d": lambda dtype: problems.depthwise_conv2d((2, 80, 9, 10), 7, dtype, "gelu"),
    "max_pool": lambda dtype: problems.max_pool((2, 80, 9, 10), (3, 3), dtype, stride=(2, 2), padding=(1, 1)),
    "average_pool": lambda dtype: problems.average_pool((2, 80, 9, 7), dtype),
    "epilogue": lambda dtype: problems.epilogue(problems.image(2, 320, 5, 3, dtype), "gelu"),
    "layer_norm": lambda dtype: problems.layer_norm(35, 96, dtype),
    "add_layer_norm": lambda dtype: problems.add_layer_norm(35, 96, dtype),
    "norm_linear": lambda dtype: problems.norm_linear(131, 144, 192, dtype, "gelu"),
    "prepend_tokens": lambda dtype: problems.prepend_tokens(3, 37, 1, 96, dtype),
}
ODD: dict[str, Callable[[torch.dtype], Problem]] = {
    "linear": lambda dtype: problems.linear(67, 131, 45, dtype, "relu", gap=3, residual=False),
    "conv2d": lambda dtype: problems.conv2d((1, 3, 25, 23), 37, (7, 7), dtype, "relu6", stride=(2, 2), bias=False),
    "depthwise_pointwise": lambda dtype: problems.depthwise_pointwise((2, 37, 9, 11), 67, 3, dtype, "relu6", stride=2),
    "dual_linear": lambda dtype: problems.dual_linear(67, 131, 45, 19, dtype, "relu", gap=3, bias=False),
    "mlp": lambda dtype: problems.mlp(67, 131, 75, 45, dtype, "relu", gap=3, residual=False, eps=1e-3),
    "inverted_residual": lambda dtype: problems.inverted_residual((2, 13, 9, 11), 37, 35, dtype, "relu6", stride=2),
    "depthwise_conv2d": lambda dtype: problems.depthwise_conv2d((2, 37, 9, 11), 3, dtype, "relu6", stride=2),
    "max_pool": lambda dtype: problems.max_pool((2, 37, 9, 11), (2, 3), dtype, stride=(1, 2), padding=(1, 0)),
    "average_pool": lambda dtype: problems.average_pool((2, 37, 5, 3), dtype),
    "epilogue": lambda dtype: problems.epilogue(problems.matrix(37, 71, dtype, gap=3), "silu"),
    "layer_norm": lambda dtype: problems.layer_norm(19, 1033, dtype, gap=3),  # longer than any tile
    "add_layer_norm": lambda dtype: problems.add_layer_norm(19, 1033, dtype, gap=3, weight=False),
    "norm_linear": lambda dtype: problems.norm_linear(67, 131, 45, dtype, "relu", gap=3),
    "prepend_tokens": lambda dtype: problems.prepend_tokens(5, 7, 3, 45, dtype),
}
EIGHTS: dict[str, Callable[[torch.dtype], Problem]] = {
    "linear": lambda dtype: problems.linear(37, 136, 72, dtype, "none"),
    "conv2d": lambda dtype: problems.conv2d((2, 24, 9, 7), 40, (3, 3), dtype, "silu"),
    "depthwise_pointwise": lambda dtype: problems.depthwise_pointwise((1, 24, 9, 10), 136, 3, dtype, "none"),
    "dual_linear": lambda dtype: problems.dual_linear(37, 136, 72, 24, dtype, "none"),
    "mlp": lambda dtype: problems.mlp(37, 136, 40, 72, dtype, "silu", bias=False),
    "inverted_residual": lambda dtype: problems.inverted_residual((1, 24, 9, 7), 40, 24, dtype, "relu", bias=False),
    "depthwise_conv2d": lambda dtype: problems.depthwise_conv2d((1, 24, 9, 10), 3, dtype, "none", bias=False),
    "max_pool": lambda dtype: problems.max_pool((1, 24, 9, 10), (3, 3), dtype, stride=(2, 2), padding=(1, 1)),
    "average_pool": lambda dtype: problems.average_pool((3, 24, 5, 3), dtype),
    "epilogue": lambda dtype: problems.epilogue(problems.image(2, 72, 5, 3, dtype), "none"),
    "layer_norm": lambda dtype: problems.layer_norm(37, 136, dtype, bias=False),
    "add_layer_norm": lambda dtype: problems.add_layer_norm(37, 136, dtype),
    "norm_linear": lambda dtype: problems.norm_linear(37, 136, 72, dtype, "none", bias=False),
    "prepend_tokens": lambda dtype: problems.prepend_tokens(2, 19, 2, 72, dtype),
}
ONES: dict[str, Callable[[torch.dtype], Problem]] = {
    "linear": lambda dtype: problems.linear(1, 1, 1, dtype, "none"),
    "conv2d": lambda dtype: problems.conv2d((1, 1, 1, 1), 1, (1, 1), dtype, "none"),
    "depthwise_pointwise": lambda dtype: problems.depthwise_pointwise((1, 1, 1, 1), 1, 3, dtype, "none"),
    "dual_linear": lambda dtype: problems.dual_linear(1, 1, 1, 1, dtype, "none"),
    "mlp": lambda dtype: problems.mlp(1, 1, 1, 1, dtype, "none"),
    "inverted_residual": lambda dtype: problems.inverted_residual((1, 1, 1, 1), 1, 1, dtype, "none"),
    "depthwise_conv2d": lambda dtype: problems.depthwise_conv2d((1, 1, 1, 1), 3, dtype, "none"),
    "max_pool": lambda dtype: problems.max_pool((1, 1, 1, 1), (1, 1), dtype, stride=(1, 1)),
    "average_pool": lambda dtype: problems.average_pool((1, 1, 1, 1), dtype),
    "epilogue": lambda dtype: problems.epilogue(problems.matrix(1, 1, dtype), "none"),
    "layer_norm": lambda dtype: problems.layer_norm(1, 1, dtype),
    "add_layer_norm": lambda dtype: problems.add_layer_norm(1, 1, dtype),
    "norm_linear": lambda dtype: problems.norm_linear(1, 1, 1, dtype, "none"),
    "prepend_tokens": lambda dtype: problems.prepend_tokens(1, 1, 1, 1, dtype),
}


def run(problem: Problem, tile: Tile, **order: Any) -> Tensor:
    """Call the operator as on a device, its kernel launched on the emulator."""
    module = sys.modules[f"updp_rt.kernels.triton.{problem.operator}"]
    operands = problem.fresh_operands()
    with pytest.MonkeyPatch.context() as patch:
        name = f"{problem.operator}_kernel"
        patch.setattr(module, name, emulated(getattr(module, name), tile, **order))
        poison_fresh_memory(patch)
        return called(operators, problem.operator, operands, tile)


SIZES = {"aligned": ALIGNED, "eights": EIGHTS, "odd": ODD}
EVERY_CASE = [
    pytest.param(*case.values, sizes, id=f"{sizes}-{case.id}", marks=case.marks or (() if quick else pytest.mark.slow))
    for case in EVERY_TILE
    for sizes in SIZES
    for quick in [sizes == "aligned" or (sizes == "odd" and case.values[1] is torch.float16)]
]


@pytest.mark.parametrize(("operator", "dtype", "tile", "sizes"), EVERY_CASE)
def test_agrees_with_float64(operator: str, dtype: torch.dtype, tile: Tile, sizes: str) -> None:
    problem = SIZES[sizes][operator](dtype)
    assert problem.error(run(problem, tile)) is None


# Dtypes in turn, of every fourth activation; the others take longer.
EVERY_ACTIVATION = [
    pytest.param(operator, dtype, act, marks=() if (row + column - turn) % 12 == 0 else pytest.mark.slow)
    for row, operator in enumerate(OPERATORS)
    if any(isinstance(operand, str) for operand in ONES[operator](torch.float16).operands)
    for column, act in enumerate(ACTIVATIONS)
    for turn, dtype in enumerate(DTYPES)
]


@pytest.mark.parametrize(("operator", "dtype", "act"), EVERY_ACTIVATION)
def test_every_activation(operator: str, dtype: torch.dtype, act: str) -> None:
    problem = ODD[operator](dtype)
    operands = tuple(act if isinstance(operand, str) else operand for operand in problem.operands)
    problem = Problem(operator, operands, problem.depth)
    assert problem.error(run(problem, tiles(operator, "gfx908", dtype)[0])) is None


# Triton 3.6 has accumulators of that kernel read from registers that gfx908 cannot load, and its assembler says so.
REFUSED = pytest.param(
    "norm_linear",
    marks=pytest.mark.xfail(
        triton.__version__.startswith("3.6."), raises=RuntimeError, reason="triton 3.6", strict=True
    ),
)


@pytest.mark.parametrize("operator", [REFUSED if operator == "norm_linear" else operator for operator in OPERATORS])
def test_sizes_of_one_are_compiled_in(operator: str) -> None:
    problem = ONES[operator](torch.float16)
    assert problem.error(run(problem, tiles(operator, "gfx908", torch.float16)[0])) is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_order_of_waves_and_workgroups_does_not_matter(operator: str) -> None:
    problem = ALIGNED[operator](torch.float16)
    tile = tiles(operator, "gfx908", torch.float16)[-1]
    in_order = run(problem, tile)
    for order in ({"waves": "backward"}, {"workgroups": "backward"}, {"workgroups": "shuffled", "waves": "backward"}):
        assert torch.equal(run(problem, tile, **order), in_order)


@pytest.mark.parametrize("operator", OPERATORS)
def test_nan_reaches_what_depends_on_it_and_nothing_else(operator: str) -> None:
    problem = spoiled(ODD[operator](torch.float16))
    assert problem.error(run(problem, tiles(operator, "gfx908", torch.float16)[0])) is None


def far_apart(matrix: Tensor, distance: int) -> Tensor:
    """The same values with rows `distance` elements apart; only pages that hold values are ever touched."""
    try:
        far = torch.empty(distance * (matrix.shape[0] - 1) + matrix.shape[1], dtype=matrix.dtype)
    except RuntimeError:
        pytest.skip("this machine does not promise memory that is never touched")
    return far.as_strided(matrix.shape, (distance, 1)).copy_(matrix)


def test_rows_beyond_two_to_the_31_elements() -> None:
    problem = problems.linear(3, 19, 32, torch.float16, "none")
    x, weight, bias, residual, act = problem.operands
    distance = 2**30 + 16  # the third row begins past 2**31 elements, 2**32 bytes
    operands = (far_apart(x, distance), weight, bias, far_apart(residual, distance), act)
    assert (
        problem.error(run(Problem("linear", operands, problem.depth), operators.tiles("linear", "gfx908", x.dtype)[0]))
        is None
    )
