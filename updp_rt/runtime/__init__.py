"""The runtime: drop-in fused modules, lowering, measured dispatch, tuned tables, and what to know of them."""

from updp_rt.runtime import operators  # noqa: F401 - gives torch.ops.updp_rt its kernels
from updp_rt.runtime.dispatch import AccelerationError
from updp_rt.runtime.explanation import Explanation, explain
from updp_rt.runtime.lowering import accelerate, prewarm, restore

__all__ = ["AccelerationError", "Explanation", "accelerate", "explain", "prewarm", "restore"]
