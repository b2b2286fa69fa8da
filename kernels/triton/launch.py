"""What a launch tells the compiler of its sizes."""

from __future__ import annotations


def common_unit(*sizes: int) -> int:
    """8 where all sizes and distances are multiples of it, so that lanes may move 16 bytes of halves; else 1."""
    return 8 if all(size % 8 == 0 for size in sizes) else 1
