"""Two linear layers with an activation between in one kernel: what lies between them stays in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check, check_mlp, check_mlp_weights
from ..checks.mlp import MlpWeights
from .launch import ACTIVATIONS, check_kernel, launch
from .manifest import HipKernel
from .panels import least_room, pack_panels


@dataclass(frozen=True)
class MlpPanels:
    """Weights of `mlp` as one of its kernels takes them: `packed` for it, and `bias`, the second; K and N."""

    packed: Tensor
    bias: Tensor | None
    k: int
    n: int


def mlp_kernels(kernels: Sequence[HipKernel], k: int, n: int) -> tuple[HipKernel, ...]:
    """Of `kernels` those that take that many columns of x and of the result, with the least to fill up."""
    return least_room(kernel for kernel in kernels if _fits(kernel, k, n))


def pack_mlp(weights: MlpWeights, kernel: HipKernel) -> MlpPanels:
    """`weights` for `kernel`, one of ``load(arch).kernels("mlp", ...)``; ValueError unless it takes them."""
    check_mlp_weights(weights)
    w1, b1, w2, b2 = weights
    k, n = w1.shape[1], w2.shape[0]
    check(k > 0, "x has no columns")
    _, most_n, most_k = kernel.block
    check(_fits(kernel, k, n), f"{kernel.name} takes up to {most_k} columns of x and {most_n} of the result")
    return MlpPanels(pack_panels(w1, b1, w2, most_k, most_n), b2, k, n)


def mlp(x: Tensor, weights: MlpPanels, residual: Tensor | None, act: str, eps: float, kernel: HipKernel) -> Tensor:
    """``act(norm(x) @ w1.T + b1) @ w2.T + b2 + residual``, accumulated in float32.

    The values between are rounded to x's dtype, as they would be in memory. Arguments are those of `check_mlp`, weights
    of `pack_mlp`, and the kernel that they were packed for.

    Returns:
        ``[M, N]`` contiguous.

    Raises:
        ValueError: they do not fit the operator or the kernel.
    """
    packed, bias, k, n = weights.packed, weights.bias, weights.k, weights.n
    check_mlp(x, k, n, packed, residual, act, eps)
    m = x.shape[0]
    check(m < 2**31, f"{m} rows are more than kernels count: split the batch")
    stride_residual = n if residual is None else residual.stride(0)
    check_kernel(kernel, "mlp", x, (bias,), (x, packed, residual), (k, n, x.stride(0), stride_residual))
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    if m:
        sizes = (m, n, k, packed.shape[0], x.stride(0), stride_residual)
        grid = -(-m // kernel.block[0])
        launch(kernel, grid, (x, packed, bias, residual, y, *sizes, float(eps), ACTIVATIONS.index(act)))
    return y


def _fits(kernel: HipKernel, k: int, n: int) -> bool:
    _, most_n, most_k = kernel.block
    return k <= most_k and n <= most_n
