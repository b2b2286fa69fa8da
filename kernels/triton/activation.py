"""The activations an epilogue can end with, on float32 tiles."""
# ruff: noqa: N803 - constexpr arguments are upper-case, as in Triton's own kernels

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(x, ACT: tl.constexpr):
    """`x` (float32) through the activation named `ACT`. NaN stays NaN, as in torch: no comparison with it is true."""
    if ACT == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACT == "relu6":
        x = tl.where(x < 0, 0.0, tl.where(x > 6, 6.0, x))
    elif ACT == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACT == "silu":
        x = x / (1.0 + tl.exp(-x))
    return x
