"""What a family of models is: which blocks it has, which of them can be pruned, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from updp_rt.blocks.progressive import ProgressiveBlock


@dataclass(frozen=True)
class Family:
    """A family of timm models.

    Attributes:
        name: short name of the family.
        example: a timm model of it.
        models: timm classes whose models belong to it.
        blocks: classes whose modules are its blocks.
        why_not: the reason why a block cannot be pruned, or None if it can.
        progressive: ``(block, name, body)`` to its progressive form; None if no block can be pruned.
    """

    name: str
    example: str
    models: tuple[type[nn.Module], ...]
    blocks: tuple[type[nn.Module], ...]
    why_not: Callable[[Any], str | None]
    progressive: type[ProgressiveBlock]


def is_identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)
