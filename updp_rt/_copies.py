"""Copies of whole models with everything that the original has: modes, hooks, and weights as ordinary tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


def copy_model(model: M, shared: Iterable[Tensor] = ()) -> M:
    """A deep copy of `model`: every module's mode, hooks and ``requires_grad`` as they are.

    Its tensors are ordinary ones even when made under ``torch.inference_mode``. A tensor that holds the graph of a
    computation, which ``copy.deepcopy`` refuses (the weight of an old ``weight_norm`` or of a pruning mask, an
    activation kept with its gradient), is copied by its value.

    Args:
        shared: tensors that the copy has in common with `model`.

    Raises:
        ValueError: something in `model` cannot be copied: which module and attribute, and what to do.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    # torch.fx copies its modules by making them again, in training mode, without hooks; torchvision's kind even keeps
    # the original's layers. So they are copied here like any other module.
    graphs = [module for module in model.modules() if isinstance(module, fx.GraphModule)]
    for graph in graphs:
        memo[id(graph)] = type(graph).__new__(type(graph))
    try:
        with torch.inference_mode(False), _CopyValues():
            for graph in graphs:
                memo[id(graph)].__dict__.update(copy.deepcopy(vars(graph), memo))
                memo[id(graph)].graph = memo[id(graph)]._graph  # compiles its code
            copied = copy.deepcopy(model, memo)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the parts of a model raise
        raise ValueError(
            f"{_culprit(model)} cannot be copied ({' '.join(str(error).split())[:200]}): remove it before the call, or "
            "pass inplace=True if the call takes it"
        ) from error
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in copied.named_modules():  # a module may copy itself in its own way
        module.training = modes.get(name, module.training)
    return copied


def share_tensors(model: M) -> M:
    """A copy of `model` that holds the same parameters and buffers: to run in another mode, or with hooks."""
    return copy_model(model, (*model.parameters(), *model.buffers()))


def copy_shapes(model: M) -> M:
    """A copy of `model` on the device ``meta``, where tensors are shapes alone."""
    return share_tensors(model).to("meta")


class _CopyValues(TorchFunctionMode):
    """Copies tensors that a computation made, without the graph of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _culprit(model: nn.Module) -> str:
    """The attribute of a module that cannot be copied, by name; the model if it is not a single one."""
    memo = {id(module): module for module in model.modules()}
    for name, module in model.named_modules():
        for attribute, value in {**vars(module), **module._parameters, **module._buffers}.items():
            try:
                with _CopyValues():
                    copy.deepcopy(value, dict(memo))
            except Exception:  # the error itself is known already
                place = f"{name}.{attribute}" if name else attribute
                return f"{place} of this {type(model).__name__}, a {type(value).__name__},"
    return f"this {type(model).__name__}"
