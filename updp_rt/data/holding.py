"""Images held out of the training split, to choose between candidates by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch


def hold_out(labels: Sequence[int], fraction: float, root: Path) -> tuple[list[int], list[int]]:
    """Indices to train on and to choose by: a share drawn at random, but never the last picture of a class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    left = Counter(labels)
    kept, held_out = list[int](), list[int]()
    cut = max(1, round(fraction * len(order)))
    for index in order:
        if len(held_out) < cut and left[labels[index]] > 1:
            left[labels[index]] -= 1
            held_out.append(index)
        else:
            kept.append(index)
    if not held_out:
        raise ValueError(
            f"{root}: one picture per class ({len(labels)} in all), so none can be held out, as a data set "
            "without test/ needs; give each class two or more, or add test/"
        )
    return kept, held_out
