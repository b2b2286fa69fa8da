"""`accelerate` a whole model, `restore` it, `prewarm` it for the shapes to come, `refresh` what nothing shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._progress import tell
from updp_rt.backends import BACKENDS
from updp_rt.runtime.certify import VerificationError, verify
from updp_rt.runtime.dispatch import AccelerationError, Policy
from updp_rt.runtime.engines import Engine, detach, parse_engine
from updp_rt.runtime.engines.base import EngineError, state_of
from updp_rt.runtime.fastest import EngineLimits, attach_checked, attach_fastest
from updp_rt.runtime.fused import CannotFuseError, Fused, Fusion, fuse, fused_modules, unfuse
from updp_rt.runtime.memory import keep_freed_memory
from updp_rt.runtime.rules import RULES, generic
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
    measure: bool | Literal["all"] = True,
    engine: str = "modules",
    engine_limits: EngineLimits | None = None,
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
        measure: time the candidates for each shape that is not in the tuned table yet: all of them, but where a
            projection ranks them (on gfx908) its best two and the surest; with ``all``, all there too. False: measure
            nothing, and take the best by the table, else by the projection, else the surest.
        engine: what runs the whole model: ``modules`` calls the fused modules one by one; with ``compiled``
            torch.compile fuses what lies between them, for the shapes of the examples, which takes some time; with
            ``graph`` a GPU replays one CUDA or HIP graph for each of these shapes. ``inductor``, ``onnxruntime``,
            ``openvino`` and ``migraphx`` hand the source model over to torch's compiler with frozen weights, or to
            those packages where they are installed. ``auto`` builds all that can run here, compares them with float64,
            measures them side by side and keeps the fastest.
        engine_limits: with ``auto``, the seconds and the memory that building engines may take.
        certify: `verify` the result on each of the examples before handing it out, which takes a few float64 runs.

    Returns:
        The accelerated model. `restore` undoes it.

    Raises:
        ValueError: a model in train mode or already accelerated, an unknown backend or engine, or limits of an engine
            that is named.
        AccelerationError: under `strict`; or the engine cannot run the model here: it says why.
        VerificationError: under `certify`, a module whose results are further from float64 than the bound.
    """
    unknown = [name for name in backends or () if name not in BACKENDS]
    if unknown:
        raise ValueError(f"unknown backend {unknown[0]!r}: choose among {', '.join(BACKENDS)}")
    chosen = _engine_named(engine, engine_limits)
    examples = [example_input] if isinstance(example_input, Tensor) else list(example_input)
    if model.training:
        raise ValueError("only a model in eval mode can be accelerated: call model.eval() first")
    if any(isinstance(module, Fused) for module in model.modules()):
        raise ValueError("this model is accelerated already; updp_rt.restore gives the original back")
    if not inplace:
        model = copy_model(model)
    elif any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "weights made under torch.inference_mode() keep no record of updates, so packed weights could not follow "
            "them: create or load the model outside inference_mode, or leave inplace=False"
        )
    policy = Policy(strict, None if backends is None else tuple(backends), measure)
    try:
        _fuse_all(model, policy)
        if chosen is not None:
            _check_support(chosen, model, examples)
        prewarm(model, *examples)
        if chosen is None:
            attach_fastest(model, examples, policy, engine_limits or EngineLimits())
        elif chosen.name != "modules":
            attach_checked(model, chosen.name, examples, policy)
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


def _engine_named(name: str, limits: EngineLimits | None) -> Engine | None:
    """The engine of a name; None of ``auto``, which is yet to choose."""
    if name == "auto":
        return None
    engine = parse_engine(name)
    if limits is not None:
        raise ValueError(f"engine_limits bound what engine='auto' builds: leave them out with engine={name!r}")
    return engine


def restore(model: _Model, *, inplace: bool = False) -> _Model:
    """The source model of an accelerated one, as it was: the same modules, without packed weights.

    Args:
        inplace: change `model` itself, instead of a copy; this is also how `swap` is undone.

    Raises:
        ValueError: the model is not accelerated.
    """
    if state_of(model) is None and not any(isinstance(module, Fused) for module in model.modules()):
        raise ValueError("this model is not accelerated, so there is nothing to restore")
    if not inplace:
        model = copy_model(model)
    _unfuse_all(model)
    return model


@torch.inference_mode()
def prewarm(model: nn.Module, *examples: Tensor) -> None:
    """Measure, check and pack everything that `model` needs for inputs like `examples`; make its engine ready for them.

    Call it before capturing a CUDA or HIP graph, in which nothing can be measured, and before serving a new batch size.

    Raises:
        AccelerationError: the engine computes something else for them, or a program for them would take more memory
            than `engine_limits` allows. The modules run them.
    """
    for example in examples:
        if example.device.type == "cpu":
            keep_freed_memory()
        with _told(model):
            model(example)
        table_for(example.device).save()
        state = state_of(model)
        if state is not None:
            state.prepare(example)


def _check_support(engine: Engine, model: nn.Module, examples: Sequence[Tensor]) -> None:
    for example in examples:
        supported, reason = engine.supports(model, example)
        if not supported:
            raise EngineError(engine.name, reason)


def refresh(model: nn.Module) -> None:
    """Have an accelerated model read all its weights and parts again.

    Updates by torch are followed without it. It is for those that nothing shows: weights on a GPU written through
    ``tensor.data`` or by another process that shares them, single values changed so on a CPU, statistics that
    ``batch_norm`` is called on, weights that become another view of their memory, a module's dictionaries exchanged.
    An engine whose programs hold the weights builds them again at once; a compiled model and one that runs as a graph
    run by their modules until `prewarm` makes them ready.

    Raises:
        ValueError: a model that is not accelerated.
    """
    found = list(fused_modules(model))
    if not found:
        raise ValueError(
            "this model is not accelerated, so it holds no packed weights: refresh what accelerate returned"
        )
    for _, _, fusion in found:
        fusion.plan_again()
    state = state_of(model)
    if state is not None:
        state.refresh()


@contextmanager
def _told(model: nn.Module) -> Iterator[None]:
    """Tell how many of the fused modules have run, since the first run of each measures its kernels."""
    modules = [module for _, module, _ in fused_modules(model)]
    ran: set[int] = set()

    def note(module: nn.Module, *_: object) -> None:
        ran.add(id(module))
        tell("measuring kernels", len(ran), len(modules))

    tell("measuring kernels", 0, len(modules))
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fuse_all(model: nn.Module, policy: Policy) -> None:
    done: set[int] = set()
    for name, module in list(model.named_modules()):
        rule = RULES.get(type(module))
        if rule is None or id(module) in done:
            continue
        try:
            fusion = Fusion.planned(rule, module, policy)
        except CannotFuseError as error:
            if not isinstance(rule, generic.SequentialRule):  # most sequences hold no convolution of their own
                _log.info("%s is not fused as a whole: %s", name or type(model).__name__, error)
            if policy.strict and not rule.optional:
                raise AccelerationError(f"{name or type(model).__name__} cannot be fused: {error}") from error
            continue
        fuse(module, rule, fusion)
        done |= {id(member) for _, _, member, _ in fusion.members}


def _unfuse_all(model: nn.Module) -> None:
    detach(model)
    for module in list(model.modules()):
        if isinstance(module, Fused):
            unfuse(module)
