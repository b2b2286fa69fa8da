"""Fresh memory that holds NaN, so that a value a kernel never wrote is seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def poison_fresh_memory(patch: pytest.MonkeyPatch) -> None:
    """Let ``torch.empty`` fill what it gives with NaN."""
    empty = torch.empty

    def poisoned(*args: object, **kwargs: object) -> Tensor:
        return empty(*args, **kwargs).fill_(float("nan"))

    patch.setattr(torch, "empty", poisoned)
