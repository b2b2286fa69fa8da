"""The runtime: drop-in fused modules, lowering, measured dispatch, tuned tables, and what to know of them."""

from updp_rt.runtime.accelerate import accelerate, prewarm, restore
from updp_rt.runtime.dispatch import AccelerationError
from updp_rt.runtime.explain import Explanation, explain

__all__ = ["AccelerationError", "Explanation", "accelerate", "explain", "prewarm", "restore"]
