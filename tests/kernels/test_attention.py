"""Attention's kernels for gfx908, Triton's and HIP's, on the emulator, against float64; outputs start as NaN."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels import problems
from tests.kernels.emulator import emulated
from tests.kernels.poison import poison_fresh_memory
from tests.kernels.problems import Problem, spoiled
from updp_rt.kernels import DTYPES, hip, triton
from updp_rt.kernels.checks import HEAD_DEPTHS
from updp_rt.kernels.hip import HipKernel
from updp_rt.kernels.triton import Tile

Kernel = tuple[torch.dtype, int, HipKernel | Tile]  # dtype, values of a head


def _kernels() -> dict[str, Kernel]:
    found: dict[str, Kernel] = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for kernel in hip.load("gfx908").kernels("attention", dtype, aligned=True):
            found[f"hip-{name}-{kernel.tile}"] = dtype, kernel.block[2], kernel
        for tile in triton.tiles("attention", "gfx908", dtype):
            found[f"triton-{name}-{tile.name}"] = dtype, tile.block_k, tile
    return found


KERNELS = _kernels()
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
# One of each language and dtype.
FEW = {"-".join(name.split("-")[:2]): kernel for name, kernel in KERNELS.items() if kernel[1] == 64}
few_kernels = pytest.mark.parametrize("kernel", FEW.values(), ids=FEW)


@cache
def _mi100(backward: bool) -> hip.EmulatedMI100:
    return hip.EmulatedMI100(backward=backward)


def run(problem: Problem, kernel: HipKernel | Tile, *, backward: bool = False) -> Tensor:
    """Call the operator as on a device.

    Args:
        backward: waves and workgroups in another order: what then differs lacks a barrier.
    """
    with pytest.MonkeyPatch.context() as patch:
        poison_fresh_memory(patch)
        if isinstance(kernel, HipKernel):
            with hip.emulated_mi100(_mi100(backward)):
                return hip.attention(*problem.operands, kernel)
        module = sys.modules["updp_rt.kernels.triton.attention"]
        order: dict[str, Any] = {"waves": "backward", "workgroups": "shuffled"} if backward else {}
        patch.setattr(module, "attention_kernel", emulated(module.attention_kernel, kernel, **order))
        return triton.attention(*problem.operands, kernel)


@every_kernel
@pytest.mark.parametrize("tokens", [197, 65])
def test_agrees_with_float64(kernel: Kernel, tokens: int) -> None:
    dtype, depth, own = kernel
    problem = problems.attention(1, tokens, 2, depth, dtype, spread=2)
    assert problem.error(run(problem, own)) is None


# Triton compiles 1 and multiples of 16 on their own: those of two dtypes take longer.
TOKENS = [
    pytest.param(
        kernel,
        tokens,
        id=f"{name}-{tokens}",
        marks=pytest.mark.slow
        if tokens == 577 or (tokens in (1, 128) and name.startswith("triton") and kernel[0] != torch.float16)
        else (),
    )
    for name, kernel in FEW.items()
    for tokens in (1, 7, 128, 198, 577)
]


@pytest.mark.parametrize(("kernel", "tokens"), TOKENS)
def test_any_number_of_tokens(kernel: Kernel, tokens: int) -> None:
    dtype, depth, own = kernel
    problem = problems.attention(2, tokens, 3, depth, dtype)
    assert problem.error(run(problem, own)) is None


@few_kernels
def test_order_of_waves_and_workgroups_does_not_matter(kernel: Kernel) -> None:
    dtype, depth, own = kernel
    problem = problems.attention(1, 197, 2, depth, dtype)
    assert torch.equal(run(problem, own, backward=True), run(problem, own))


def _score(problem: Problem, query: int, key: int, score: float) -> None:
    """Let a query of the first image's last head find `score` at a key, and 0 at all others."""
    qkv, heads = problem.operands
    assert isinstance(qkv, Tensor)
    assert isinstance(heads, int)
    q, k, _ = qkv.unflatten(-1, (3, heads, -1))[0, :, :, -1].unbind(1)
    q[query], k[key] = 0, 0
    q[query, 0], k[:, 0], k[key, 0] = 16, 0, score * q.shape[-1] ** 0.5 / 16


@few_kernels
@pytest.mark.parametrize("score", [5.0, 10.0, 15.0, 80.0, 1000.0])
@pytest.mark.parametrize("key", [0, 40, 196])
def test_scores_that_grow_late(kernel: Kernel, key: int, score: float) -> None:
    """Whatever the first keys made a kernel expect."""
    dtype, depth, own = kernel
    problem = problems.attention(1, 197, 2, depth, dtype)
    _score(problem, 130, key, score)
    assert problem.error(run(problem, own)) is None


@few_kernels
def test_scores_too_large_for_exact_exponents(kernel: Kernel) -> None:
    dtype, depth, own = kernel
    problem = problems.attention(1, 65, 2, depth, dtype, spread=1e4 if dtype == torch.float16 else 1e9)
    assert problem.error(run(problem, own)) is None


@few_kernels
def test_scores_of_minus_infinity_have_no_weight(kernel: Kernel) -> None:
    dtype, depth, own = kernel
    if dtype == torch.float16:
        pytest.skip("float16 holds nothing whose products overflow float32")
    problem = problems.attention(1, 197, 1, depth, dtype)
    qkv = problem.operands[0]
    assert isinstance(qkv, Tensor)
    q, k, v = qkv.unflatten(-1, (3, -1)).unbind(2)
    q[0, :, 0], k[0, :, 0] = 0, 0
    q[0, 3, 0] = 1e30
    k[0, :100, 0] = -1e30  # more than any step has
    found = run(problem, own)
    assert found.isfinite().all()
    weights = (q[0, 3].double() @ k[0, 100:].double().T / depth**0.5).softmax(-1)
    assert torch.allclose(found[0, 3].double(), weights @ v[0, 100:].double(), atol=0.05)


@few_kernels
def test_nan_reaches_what_depends_on_it_and_nothing_else(kernel: Kernel) -> None:
    dtype, depth, own = kernel
    problem = spoiled(problems.attention(2, 65, 2, depth, dtype))  # a whole token of the first image
    assert problem.error(run(problem, own)) is None
    for part in range(2):
        problem = problems.attention(2, 65, 2, depth, dtype)
        qkv = problem.operands[0]
        assert isinstance(qkv, Tensor)
        qkv[0, 64, 2 * part * 2 * depth] = torch.nan  # a query; then a value
        assert problem.error(run(problem, own)) is None


def test_there_are_kernels_for_every_depth() -> None:
    for dtype in DTYPES:
        for language in ("hip", "triton"):
            prefix = f"{language}-{str(dtype).removeprefix('torch.')}-"
            assert {depth for name, (_, depth, _) in KERNELS.items() if name.startswith(prefix)} == set(HEAD_DEPTHS)


CALLS: dict[str, Callable[..., Tensor]] = {"hip": hip.attention, "triton": triton.attention}


@pytest.mark.parametrize("language", CALLS)
@pytest.mark.parametrize(
    ("shape", "heads", "message"),
    [
        ((2, 5, 384), 3, r"qkv has 384 values a token, but 3 x 3 heads of this kernel's 64 are 576"),
        ((2, 5, 384), 0, r"3 x 0 heads"),
        ((5, 192), 1, r"qkv must be contiguous \[N, T, 3 \* heads \* D\], not \[5, 192\]"),
    ],
)
def test_operands_that_do_not_fit_are_refused(language: str, shape: tuple[int, ...], heads: int, message: str) -> None:
    kernel = next(own for name, (_, depth, own) in KERNELS.items() if name.startswith(language) and depth == 64)
    with pytest.raises(ValueError, match=message):
        CALLS[language](torch.zeros(shape, dtype=DTYPES[0]), heads, kernel)


@pytest.mark.parametrize("language", CALLS)
def test_no_images_and_no_tokens_give_nothing(language: str) -> None:
    dtype, depth, own = FEW[f"{language}-float16"]
    for shape in ((0, 5), (2, 0)):
        assert CALLS[language](torch.zeros(*shape, 6 * depth, dtype=dtype), 2, own).shape == (*shape, 2 * depth)
