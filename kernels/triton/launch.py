"""What every operator needs around its kernel besides checks: torch's wrapper, and what is known of sizes."""

from __future__ import annotations

import torch
from triton import knobs


def _itself(kernel: object) -> object:
    return kernel


# Interpreted functions are refused by torch, and there is nothing in them to trace.
wrap_triton = _itself if knobs.runtime.interpret else torch.library.wrap_triton


def common_unit(*sizes: int) -> int:
    """8 where all sizes and distances are multiples of it, so that lanes may move 16 bytes of halves; else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1
