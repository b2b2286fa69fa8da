"""`accelerate` a whole model, `restore` it, `prewarm` it for the shapes to come."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from updp_rt.backends import BACKENDS
from updp_rt.runtime.certify import VerificationError, verify
from updp_rt.runtime.dispatch import AccelerationError, Policy
from updp_rt.runtime.fused import Absorbed, CannotFuseError, Fused, Fusion, fuse, unfuse
from updp_rt.runtime.memory import keep_freed_memory
from updp_rt.runtime.rules import CHAINS, RULES, generic
from updp_rt.runtime.rules.parts import conv_site
from updp_rt.runtime.table import table_for

_Model = TypeVar("_Model", bound=nn.Module)
_log = logging.getLogger("updp_rt")


def accelerate(
    model: _Model,
    example_input: Tensor | Sequence[Tensor],
    *,
    inplace: bool = False,
    strict: bool = False,
    backends: Sequence[str] | None = None,
    certify: bool = False,
) -> _Model:
    """Run `model` on fused kernels: convolutions and linear layers with their norms, residuals and activations.

    Modules keep their names, parameters, hooks and ``state_dict``; each gets a faster forward for inference and keeps
    its own for training. Kernels are measured on `example_input`, or read from the tuned table where they have been
    before; each is checked against the plain operators in float64 before it is used. What cannot be fused stays as it
    is. On a CPU, glibc is told to keep freed memory for reuse (``UPDP_RT_MALLOC=system`` in the environment: not).

    Args:
        model: any model in eval mode; timm's ResNet, EfficientNet, ConvNeXt and ViT families and merged models are
            fused in whole blocks, others layer by layer.
        example_input: images ``[N, 3, H, W]`` as they will be served, on the model's device; or several such, one for
            each shape. Further shapes are measured when they are first met.
        inplace: change `model` itself, instead of a copy.
        strict: raise `AccelerationError` where something falls back: a kernel that fails or disagrees with the
            reference, or a block that cannot be fused.
        backends: use only these, of onednn, triton, hip, vendor and reference.
        certify: `verify` the result on each of the examples before handing it out, which takes a few float64 runs.

    Returns:
        The accelerated model. `restore` undoes it.

    Raises:
        ValueError: a model in train mode or already accelerated, or an unknown backend.
        AccelerationError: under `strict`.
        VerificationError: under `certify`, a module whose results are further from float64 than the bound.
    """
    unknown = [name for name in backends or () if name not in BACKENDS]
    if unknown:
        raise ValueError(f"unknown backend {unknown[0]!r}: choose among {', '.join(BACKENDS)}")
    if model.training:
        raise ValueError("only a model in eval mode can be accelerated: call model.eval() first")
    if any(isinstance(module, Fused) for module in model.modules()):
        raise ValueError("this model is accelerated already; updp_rt.restore gives the original back")
    if not inplace:
        model = _copy(model)
    elif any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "weights made under torch.inference_mode() keep no record of updates, so packed weights could not follow "
            "them: create or load the model outside inference_mode, or leave inplace=False"
        )
    policy = Policy(strict, None if backends is None else tuple(backends))
    try:
        _fuse_all(model, policy)
        examples = [example_input] if isinstance(example_input, Tensor) else list(example_input)
        prewarm(model, *examples)
        if certify:
            source = restore(model)
            for example in examples:
                certificate = verify(source, model, example)
                if not certificate.passed:
                    raise VerificationError(certificate)
    except BaseException:
        _unfuse_all(model)  # a model given to be changed in place is not left half changed
        raise
    return model


def restore(model: _Model, *, inplace: bool = False) -> _Model:
    """The source model of an accelerated one, as it was: the same modules, without packed weights."""
    if not any(isinstance(module, Fused) for module in model.modules()):
        raise ValueError("this model is not accelerated, so there is nothing to restore")
    if not inplace:
        model = _copy(model)
    _unfuse_all(model)
    return model


@torch.inference_mode()
def prewarm(model: nn.Module, *examples: Tensor) -> None:
    """Measure, check and pack everything that `model` needs for inputs shaped like `examples`.

    Call it before capturing a CUDA or HIP graph, in which nothing can be measured, and before serving a new batch size.
    """
    for example in examples:
        if example.device.type == "cpu":
            keep_freed_memory()
        model(example)
        table_for(example.device).save()


def _copy(model: _Model) -> _Model:
    with torch.inference_mode(False):  # tensors made in inference mode have no version counter to follow
        return copy.deepcopy(model)


def _fuse_all(model: nn.Module, policy: Policy) -> None:
    done: set[int] = set()
    for name, module in list(model.named_modules()):
        if id(module) in done:
            continue
        done |= _fuse_chains(module, policy)
        rule = RULES.get(type(module))
        if rule is None:
            continue
        fusion = Fusion(module, policy)
        try:
            rule.plan(module, fusion)
        except CannotFuseError as error:
            if rule is not generic.FusedSequential:  # most sequences hold no convolution of their own
                _log.info("%s is not fused as a whole: %s", name or type(model).__name__, error)
            if policy.strict and rule not in generic.RULES:
                raise AccelerationError(f"{name or type(model).__name__} cannot be fused: {error}") from error
            continue
        fuse(module, rule, fusion)
        done |= {id(member) for _, _, member in fusion.members}


def _fuse_chains(model: nn.Module, policy: Policy) -> set[int]:
    """Fuse the chains that `model` holds as direct children; returns the ids of their modules."""
    done: set[int] = set()
    for names in CHAINS.get(type(model), ()):
        leader, *followers = (model.get_submodule(name) for name in names)
        fusion = Fusion(leader, policy)
        try:
            conv_site(fusion, "conv", leader, followers[0], followers[1] if len(followers) > 1 else None)
        except CannotFuseError as error:
            _log.info("%s is not fused: %s", "+".join(names), error)
            continue
        for name in names[1:]:
            fusion.absorb(name, model)
        for follower in followers:
            fuse(follower, Absorbed, fusion)
        fuse(leader, RULES[nn.Conv2d], fusion)
        done |= {id(leader), *(id(member) for _, _, member in fusion.members)}
    return done


def _unfuse_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, Fused):
            unfuse(module)
