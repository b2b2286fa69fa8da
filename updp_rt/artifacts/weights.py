"""Weights as files hold them: on the CPU, each stored once, tied again after loading."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.artifacts.errors import ArtifactError


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights on the CPU, contiguous and none sharing another's memory, as safetensors wants them."""
    state, seen = {}, set()
    for name, value in model.state_dict().items():
        here = value.detach().cpu().contiguous()
        memory = here.untyped_storage().data_ptr()
        state[name] = here.clone() if memory in seen else here
        seen.add(memory)
    return state


def tied_weights(model: nn.Module) -> dict[str, str]:
    """Names of weights that are the same tensor as another, and the name of that one."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            found[name] = first[id(tensor)]
    return found


def with_tied(state: dict[str, Tensor], tied: dict[str, str] | None) -> dict[str, Tensor]:
    """`state` with the weights that it does not hold because they are others'."""
    for name, source in (tied or {}).items():
        if name in state or source not in state:
            raise ArtifactError(f"tied: the file has no weights {source[:80]!r}, or has {name[:80]!r} twice")
    return state | {name: state[source] for name, source in (tied or {}).items()}


def tie(model: nn.Module, tied: dict[str, str] | None) -> None:
    """Have the weights of `model` that are others' be those again; raises `ArtifactError` where it has none such."""
    for name, source in (tied or {}).items():
        held, attribute = _holder(model, name)
        theirs, other = _holder(model, source)
        if type(held[attribute]) is not type(theirs[other]):
            raise ArtifactError(f"tied: {name[:80]!r} and {source[:80]!r} are not of one kind")
        held[attribute] = theirs[other]


def _holder(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a parameter or buffer, and its name there."""
    path, _, attribute = name.rpartition(".")
    modules = dict(model.named_modules(remove_duplicate=False))
    for held in (modules[path]._parameters, modules[path]._buffers) if path in modules else ():
        if held.get(attribute) is not None:
            return held, attribute
    raise ArtifactError(f"tied: this architecture has no weights {name[:80]!r}")


def fingerprint(model: nn.Module) -> str:
    """sha256 over the names, shapes and bytes of a model's weights."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
