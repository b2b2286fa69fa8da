"""The quick answer before every call: whether objects are the very ones that were looked at. Python gives the slow one.

Where they are not, they may still be equal, so whoever asks compares them then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

try:
    from updp_rt import _seen
except ImportError:  # it is not built, or does not know this torch
    _seen = None  # type: ignore[assignment]


class Looked(Protocol):
    """What was looked at."""

    def same(self) -> bool:
        """Whether all are the objects that they were; False where that is not known."""


class _Unseen:
    def same(self) -> bool:
        return False


UNSEEN: Looked = _Unseen()


def look(**what: Any) -> Looked:
    """What `updp_rt._seen.see` makes of `what`; `UNSEEN` where it cannot."""
    try:
        return UNSEEN if _seen is None else _seen.see(**what)
    except (KeyError, TypeError):
        return UNSEEN


def look_at_tensors(
    holders: Iterable[dict[str, Any]],
    versioned: Iterable[Tensor],
    placed: Iterable[tuple[Tensor, int, int]],
) -> Looked:
    """Which tensors `holders` hold, the versions of some, and where some lie, with up to eight bytes of theirs.

    Args:
        placed: each tensor with the address of these bytes, and how many.
    """
    versioned, placed = list(versioned), list(placed)
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in (*versioned, *(t for t, *_ in placed))):
        return UNSEEN  # others may give a version and an address of their own
    return look(contents=list(holders), versioned=versioned, placed=placed)
