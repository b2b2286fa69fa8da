"""The runtime: drop-in fused modules, lowering, measured dispatch, tuned tables, and what to know of them."""

from updp_rt.runtime.accelerate import accelerate, prewarm, restore
from updp_rt.runtime.dispatch import AccelerationError

__all__ = ["AccelerationError", "accelerate", "prewarm", "restore"]
