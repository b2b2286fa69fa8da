"""Every operator under Triton's interpreter. Run with ``TRITON_INTERPRET=1``; prints JSON, what is wrong by case.

It is a process of its own, since nothing compiles in one that interprets. bfloat16 is left out: the interpreter's
bfloat16 product is wrong (the emulator covers it).
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, cycle

import numpy
import pytest
import torch
import triton

from tests.kernels import problems
from tests.kernels.plain import ACTIVATIONS
from tests.kernels.poison import poison_fresh_memory
from tests.kernels.problems import Problem, called, spoiled

Make = Callable[[torch.dtype], Problem]
make = functools.partial

runs = pytest.mark.skipif(
    triton.__version__.startswith("3.6.") and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0",
    reason="Triton 3.6's interpreter does not run beside numpy 2.4 or newer",
)


def _problems() -> Iterator[tuple[str, Make]]:
    for act in ACTIVATIONS:
        yield f"linear {act}", make(problems.linear, 17, 31, 53, act=act)
        yield f"conv2d {act}", make(problems.conv2d, (2, 5, 7, 6), 11, (3, 3), act=act)
        yield f"depthwise_pointwise {act}", make(problems.depthwise_pointwise, (2, 5, 3, 9), 17, 3, act=act)
        yield f"dual_linear {act}", make(problems.dual_linear, 17, 31, 53, 7, act=act)
        yield f"epilogue {act}", make(_matrix_epilogue, 19, 67, act=act)
        yield f"norm_linear {act}", make(problems.norm_linear, 17, 31, 53, act=act)
    for name in ("layer_norm", "add_layer_norm"):
        norm = getattr(problems, name)
        for m, n, given in ((17, 31, {}), (5, 64, {"weight": False}), (3, 200, {"bias": False, "gap": 5}), (0, 7, {})):
            yield f"{name} {m}x{n}", make(norm, m, n, **given)
    for sizes in ((2, 7, 1, 45), (3, 17, 2, 64), (1, 1, 0, 3), (0, 5, 1, 7)):
        yield f"prepend_tokens {sizes}", make(problems.prepend_tokens, *sizes)
    yield "norm_linear rows apart", make(problems.norm_linear, 37, 41, 43, act="none", gap=5, bias=False)
    yield "norm_linear no rows", make(problems.norm_linear, 0, 41, 43, act="none")
    for bias, residual in ((True, False), (False, True), (False, False)):
        given = {"bias": bias, "residual": residual, "act": "relu"}
        name = f"bias={bias} residual={residual}"
        yield f"linear {name}", make(problems.linear, 33, 70, 96, **given)
        yield f"conv2d {name}", make(problems.conv2d, (1, 8, 5, 5), 16, (3, 3), **given)
        yield f"depthwise_pointwise {name}", make(problems.depthwise_pointwise, (1, 16, 8, 8), 16, 3, **given)
        yield f"epilogue {name}", make(_image_epilogue, (2, 19, 5, 3), **given)
    yield "dual_linear no bias", make(problems.dual_linear, 33, 70, 48, 48, act="relu", bias=False)
    for m, n, k in ((1, 1, 1), (5, 123, 64), (64, 1, 129), (0, 7, 5)):
        yield f"linear {m}x{n}x{k}", make(problems.linear, m, n, k, act="gelu")
        yield f"dual_linear {m}x{n}x{k}", make(problems.dual_linear, m, n, k, 2 * k + 1, act="silu")
    yield "linear rows apart", make(problems.linear, 37, 41, 43, act="none", gap=5)
    yield "dual_linear rows apart", make(problems.dual_linear, 37, 41, 43, 13, act="none", gap=5)
    yield "epilogue rows apart", make(_matrix_epilogue, 37, 41, act="silu", gap=5)
    yield "epilogue no rows", make(_matrix_epilogue, 0, 41, act="silu")
    for kernel in ((1, 1), (3, 3), (5, 5), (7, 7), (1, 5), (3, 2)):
        for stride in ((1, 1), (2, 2)):
            name = f"{kernel} stride {stride}"
            yield f"conv2d {name}", make(problems.conv2d, (2, 6, 9, 11), 13, kernel, act="relu6", stride=stride)
    yield "conv2d stem", make(problems.conv2d, (1, 3, 23, 21), 19, (7, 7), act="relu", stride=(2, 2))
    yield "conv2d patches", make(problems.conv2d, (1, 3, 12, 8), 19, (4, 4), act="none", stride=(4, 4), padding=(0, 0))
    yield "conv2d padded by 3 at 3x3", make(problems.conv2d, (1, 4, 5, 6), 3, (3, 3), act="none", padding=(3, 2))
    yield "conv2d uneven strides", make(problems.conv2d, (1, 4, 9, 12), 3, (3, 5), act="none", stride=(1, 3))
    yield "conv2d one pixel", make(problems.conv2d, (1, 1, 1, 1), 1, (3, 3), act="gelu")
    yield "conv2d many images of one pixel", make(problems.conv2d, (37, 5, 1, 1), 3, (3, 3), act="gelu")
    yield "conv2d no images", make(problems.conv2d, (0, 4, 5, 6), 3, (3, 3), act="none")
    for kernel, stride in ((3, 2), (5, 1), (5, 2), (7, 1), (1, 1)):
        name = f"depthwise_pointwise {kernel} stride {stride}"
        yield name, make(problems.depthwise_pointwise, (1, 19, 6, 9), 17, kernel, act="relu6", stride=stride)
    yield "depthwise_pointwise one pixel", make(problems.depthwise_pointwise, (1, 1, 1, 1), 1, 3, act="silu")
    yield "depthwise_pointwise no images", make(problems.depthwise_pointwise, (0, 4, 5, 6), 3, 3, act="none")
    for tokens in (1, 7, 16, 33, 65):
        yield f"attention of {tokens} tokens", make(problems.attention, 2, tokens, 3, 32, spread=2)
    yield "attention NaN", make(_spoiled_attention)
    for act in ("relu", "relu6"):
        yield f"linear NaN {act}", make(_spoiled, problems.linear, 5, 7, 19, act=act)
        yield f"conv2d NaN {act}", make(_spoiled, problems.conv2d, (2, 5, 4, 6), 7, (3, 3), act=act)
    yield "dual_linear NaN", make(_spoiled, problems.dual_linear, 5, 7, 19, 3, act="none")
    yield "epilogue NaN", make(_spoiled, _matrix_epilogue, 5, 7, act="relu")
    yield "depthwise_pointwise NaN", make(_spoiled, problems.depthwise_pointwise, (2, 5, 4, 6), 7, 3, act="relu")
    yield from _depthwise_and_pools()


def _block_problems() -> Iterator[tuple[str, Make]]:
    """Whole blocks."""
    for act in ACTIVATIONS:
        yield f"mlp {act}", make(problems.mlp, 17, 31, 43, 53, act=act, eps=1e-5)
        yield f"inverted_residual {act}", make(problems.inverted_residual, (2, 5, 3, 9), 19, 17, act=act)
    for bias, residual in ((True, False), (False, True), (False, False)):
        given = {"bias": bias, "residual": residual, "act": "relu"}
        name = f"bias={bias} residual={residual}"
        yield f"mlp {name}", make(problems.mlp, 33, 70, 64, 96, **given)
        yield f"inverted_residual {name}", make(problems.inverted_residual, (1, 16, 8, 8), 32, 16, **given)
    for m, n, k in ((1, 1, 1), (5, 123, 64), (64, 1, 129), (0, 7, 5)):
        yield f"mlp {m}x{n}x{k}", make(problems.mlp, m, n, 2 * k + 1, k, act="silu")
    yield "mlp rows apart", make(problems.mlp, 37, 41, 43, 13, act="gelu", gap=5)
    yield "mlp NaN", make(_spoiled, problems.mlp, 5, 7, 19, 3, act="relu")
    yield "inverted_residual stride 2", make(problems.inverted_residual, (1, 7, 9, 6), 19, 17, act="relu6", stride=2)
    yield "inverted_residual one pixel", make(problems.inverted_residual, (1, 1, 1, 1), 1, 1, act="silu")
    yield "inverted_residual no images", make(problems.inverted_residual, (0, 4, 5, 6), 8, 3, act="none")
    yield "inverted_residual NaN", make(_spoiled, problems.inverted_residual, (2, 5, 4, 6), 11, 7, act="relu")


def _depthwise_and_pools() -> Iterator[tuple[str, Make]]:
    for act in ACTIVATIONS:
        yield f"depthwise_conv2d {act}", make(problems.depthwise_conv2d, (2, 17, 3, 9), 3, act=act)
    for bias, residual in ((True, False), (False, True), (False, False)):
        given = {"bias": bias, "residual": residual, "act": "relu"}
        yield f"depthwise_conv2d {given}", make(problems.depthwise_conv2d, (1, 16, 8, 8), 3, **given)
    for kernel, stride in ((3, 2), (5, 1), (7, 1), ((2, 5), (1, 3))):
        name = f"depthwise_conv2d {kernel} stride {stride}"
        yield name, make(problems.depthwise_conv2d, (1, 19, 6, 9), kernel, act="relu6", stride=stride)
    yield "depthwise_conv2d one pixel", make(problems.depthwise_conv2d, (1, 1, 1, 1), 3, act="silu")
    yield "depthwise_conv2d no images", make(problems.depthwise_conv2d, (0, 4, 5, 6), 3, act="none")
    for size, kernel, stride, padding in _POOLS:
        name = f"max_pool {size} {kernel} {stride} {padding}"
        yield name, make(problems.max_pool, size, kernel, stride=stride, padding=padding)
    for size in ((2, 19, 7, 9), (3, 65, 1, 1), (0, 4, 5, 6)):
        yield f"average_pool {size}", make(problems.average_pool, size)
    yield "depthwise_conv2d NaN", make(_spoiled, problems.depthwise_conv2d, (2, 5, 4, 6), 3, act="relu6")
    yield "max_pool NaN", make(_spoiled, problems.max_pool, (2, 5, 4, 6), (3, 3), stride=(1, 1), padding=(1, 1))
    yield "average_pool NaN", make(_spoiled, problems.average_pool, (2, 5, 4, 6))


# Size, kernel, stride and padding.
_POOLS = (
    ((2, 19, 9, 8), (3, 3), (2, 2), (1, 1)),
    ((1, 5, 7, 11), (2, 5), (1, 3), (0, 2)),
    ((3, 65, 1, 1), (1, 1), (1, 1), (0, 0)),
    ((0, 4, 5, 6), (3, 3), (2, 2), (1, 1)),
)


def _spoiled(maker: Callable[..., Problem], *sizes: object, dtype: torch.dtype, **given: object) -> Problem:
    return spoiled(maker(*sizes, dtype=dtype, **given))


def _spoiled_attention(dtype: torch.dtype) -> Problem:
    return spoiled(problems.attention(2, 33, 2, 32, dtype))


def _matrix_epilogue(rows: int, columns: int, dtype: torch.dtype, act: str, gap: int = 0) -> Problem:
    return problems.epilogue(problems.matrix(rows, columns, dtype, gap), act)


def _image_epilogue(size: tuple[int, int, int, int], dtype: torch.dtype, act: str, **given: bool) -> Problem:
    return problems.epilogue(problems.image(*size, dtype), act, **given)


PROBLEMS = dict(chain(_problems(), _block_problems()))
DTYPES = {"float32": torch.float32, "float16": torch.float16}
TILES = {"float32": 0, "float16": 1}  # both tiles, without doubling the cases


def names() -> list[str]:
    """All cases, problem and dtype: activations in both, shapes and layouts in turn."""
    turns = cycle(DTYPES)
    return [
        f"{problem} / {dtype}"
        for problem in PROBLEMS
        for dtype in (DTYPES if problem.split()[-1] in ACTIVATIONS else [next(turns)])
    ]


def run(name: str) -> str | None:
    """What is wrong with one case, or None."""
    from updp_rt.kernels import triton as operators

    problem_name, dtype_name = name.split(" / ")
    dtype = DTYPES[dtype_name]
    torch.manual_seed(zlib.crc32(problem_name.encode()))
    problem = PROBLEMS[problem_name](dtype=dtype)
    tile = operators.tiles(problem.operator, "interpreter", dtype)[TILES[dtype_name]]
    operands = problem.fresh_operands()
    with pytest.MonkeyPatch.context() as patch:
        poison_fresh_memory(patch)
        found = called(operators, problem.operator, operands, tile)
    if problem.operator == "epilogue" and found is not operands[0]:
        return "the epilogue's result is not its operand"
    return problem.error(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: run(name) for name in names()}))
