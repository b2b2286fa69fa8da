"""The runtime: drop-in fused modules, lowering, measured dispatch, tuned tables, explanations, certificates."""

from updp_rt.runtime import operators  # noqa: F401 - gives torch.ops.updp_rt its kernels
from updp_rt.runtime.certify import VerificationError, verify
from updp_rt.runtime.dispatch import AccelerationError
from updp_rt.runtime.explanation import Explanation, explain
from updp_rt.runtime.lowering import accelerate, prewarm, restore

__all__ = [
    "AccelerationError",
    "Explanation",
    "VerificationError",
    "accelerate",
    "explain",
    "prewarm",
    "restore",
    "verify",
]
