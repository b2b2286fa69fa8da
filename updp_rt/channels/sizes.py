"""Parameters of other sizes in the place of the old, and modules that know of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd


def get_tensor(model: nn.Module, name: str) -> Tensor:
    """A parameter, buffer or plain tensor by its name."""
    found = find_tensor(model, name)
    assert found is not None
    return found


def find_tensor(model: nn.Module, name: str) -> Tensor | None:
    """A parameter, buffer or plain tensor by its name; None where nothing of the name is a tensor."""
    path, _, attribute = name.rpartition(".")
    try:
        found = getattr(model.get_submodule(path), attribute)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def replace_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in the place of a parameter, buffer or plain tensor, and tell its module of the new sizes."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    old = get_tensor(model, name)
    if old is tensor:
        return
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        setattr(module, attribute, tensor.requires_grad_(old.requires_grad))
    if attribute == "weight" or isinstance(module, _NormBase):
        _tell_sizes(module, old, tensor)


def _tell_sizes(module: Any, old: Tensor, new: Tensor) -> None:
    if isinstance(module, _ConvNd):
        if module.groups > 1:  # which go as a whole
            module.groups = new.shape[0] * module.groups // old.shape[0]
        module.in_channels, module.out_channels = new.shape[1] * module.groups, new.shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = new.shape
    elif isinstance(module, _NormBase):
        module.num_features = new.shape[0]
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(new.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = new.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = new.shape[1]
