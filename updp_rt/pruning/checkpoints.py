"""A training on disk: what it has reached, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.pruning.midway import Place

History = list[dict[str, Any]]


@dataclass
class Checkpointed:
    """What a training has reached: so many epochs with a record each, and a place in the next."""

    epoch: int = 0
    history: History = field(default_factory=list)
    place: Place = field(default_factory=Place)


def save_checkpoint(path: Path, model: nn.Module, optimizer: Any, reached: Checkpointed) -> None:
    """Write what a training has reached; raises `WriteError` where it cannot be, and then leaves what was there."""
    with atomic_path(path) as temporary:
        state = {**vars(reached), "place": vars(reached.place)}
        torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Any) -> Checkpointed:
    """Put `model` and `optimizer` where a training was; at its start where there is no checkpoint."""
    if not path.exists():
        return Checkpointed()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Checkpointed(state["epoch"], state["history"], Place(**state.get("place", {})))
