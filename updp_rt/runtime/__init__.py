"""The runtime: drop-in fused modules, lowering, measured dispatch, tuned tables, explanations, certificates."""

from updp_rt.ops.library import dispatch_with
from updp_rt.runtime.bound import run_operator
from updp_rt.runtime.certify import VerificationError, verify
from updp_rt.runtime.dispatch import AccelerationError
from updp_rt.runtime.explanation import Explanation, explain
from updp_rt.runtime.fastest import EngineLimits
from updp_rt.runtime.inductor import register_with_inductor
from updp_rt.runtime.lowering import accelerate, prewarm, refresh, restore
from updp_rt.runtime.swapping import Swapped, swap
from updp_rt.runtime.timed import FUSED

__all__ = [
    "FUSED",
    "AccelerationError",
    "EngineLimits",
    "Explanation",
    "Swapped",
    "VerificationError",
    "accelerate",
    "explain",
    "prewarm",
    "refresh",
    "restore",
    "swap",
    "verify",
]

dispatch_with(run_operator, register_with_inductor)
