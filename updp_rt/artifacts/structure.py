"""Layers and settings of a model that are not as timm builds them: told by structure, and built again from that.

Layers are plain ones of torch, timm's activations, and what stands in for attention, or between blocks: from a list,
by the arguments of their constructors. Nothing is unpickled or evaluated.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from timm.layers import activations, activations_me
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from updp_rt._marks import source_type
from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.manifest import Layer
from updp_rt.blocks import NoAttention, TokenPool
from updp_rt.channels import Selecting

_KINDS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Identity, nn.Sequential, nn.Flatten, nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout),
        *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
        *(NoAttention, TokenPool),
        *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax),
    )
}
# By names of their own: some are called as torch's are, and made of other arguments.
_KINDS |= {
    f"timm.{kind.__name__}": kind
    for module in (activations, activations_me)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, nn.Module)
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
# What pruned channels change, which the manifest tells of in its own place.
_SIZES = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "normalized_shape"}
_SIZES |= {"num_channels", "num_groups", "groups", "num_parameters"}
# What does not belong to a model but to how it is run, or is read off it elsewhere.
_PASSING = {"training", "inplace", "fused_attn", "grad_checkpointing", "num_classes"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Layers = dict[str, Layer | None]


def describe_layers(model: nn.Module, built: nn.Module) -> Layers:
    """Layers of `model` that are of another kind or structure than those of `built`; None where it has none.

    Raises:
        ArtifactError: one is no plain layer of torch.
    """
    found: Layers = {}
    _compare(model, built, "", found)
    return found


def put_layers(model: nn.Module, layers: Layers | None) -> None:
    """Put described layers in their places, in `model`; raises `ArtifactError` where there is no such place."""
    for path, layer in (layers or {}).items():
        above, _, name = path.rpartition(".")
        try:
            parent = model.get_submodule(above)
        except AttributeError as error:
            raise ArtifactError(f"layers: this architecture has no {above[:80]!r} to put {name[:80]!r} in") from error
        if hasattr(type(parent), name):
            raise ArtifactError(f"layers: {name[:80]!r} is a name that {type(parent).__name__} uses itself")
        if layer is not None:
            setattr(parent, name, _build(layer))
        elif name not in parent._modules:
            raise ArtifactError(f"layers: this architecture has no {path[:80]!r} to leave out")
        elif isinstance(parent, _CONTAINERS):
            del parent._modules[name]
        else:
            parent._modules[name] = None


def describe_settings(model: nn.Module, built: nn.Module) -> dict[str, Any]:
    """Numbers and names that modules of `model` hold, where those of `built` have others, as ``module.attribute``."""
    theirs = dict(built.named_modules(remove_duplicate=False))
    return {
        f"{path}.{key}".lstrip("."): list(value) if isinstance(value, tuple) else value
        for path, module in model.named_modules(remove_duplicate=False)
        if path in theirs
        for key, value in _settings(module).items()
        if _settings(theirs[path]).get(key, value) != value
    }


def put_settings(model: nn.Module, settings: dict[str, Any] | None) -> None:
    """Set described settings; raises `ArtifactError` where `model` has no setting of that name."""
    for name, value in (settings or {}).items():
        path, _, key = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise ArtifactError(f"settings: this architecture has no module {path[:80]!r}") from error
        if key not in _settings(module):
            raise ArtifactError(f"settings: this architecture has no setting {name[:80]!r}")
        setattr(module, key, tuple(value) if isinstance(value, list) else value)


def _compare(ours: nn.Module, theirs: nn.Module, path: str, found: Layers) -> None:
    if _differ(ours, theirs):
        if not path:
            odd = sorted(_shapes(ours).keys() ^ _shapes(theirs).keys())
            if _kind(ours) is _kind(theirs) and odd:
                whose = "this model" if odd[0] in _shapes(ours) else "the one that timm builds"
                raise ArtifactError(f"only {whose} has {', '.join(odd)} beside its layers")
            raise ArtifactError(f"timm builds another {_kind(theirs).__name__} than this {_kind(ours).__name__}")
        found[path] = _describe(ours, path)
        return
    for name in dict.fromkeys([*theirs._modules, *ours._modules]):
        here, there = ours._modules.get(name), theirs._modules.get(name)
        below = f"{path}.{name}".lstrip(".")
        if here is None and there is not None:
            found[below] = None
        elif here is not None and there is None:
            found[below] = _describe(here, below)
        elif here is not None and there is not None:
            _compare(here, there, below, found)


def _differ(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether two modules, their children apart, are of another kind, or differ by more than pruned channels."""
    if _kind(ours) is not _kind(theirs):
        return True
    if isinstance(ours, fx.GraphModule) and isinstance(theirs, fx.GraphModule) and ours.code != theirs.code:
        return True
    mine, others = _shapes(ours), _shapes(theirs)
    if mine.keys() != others.keys():
        return True
    if _kind(ours) not in _NAMES:
        return False
    arguments = ({k: v for k, v in _arguments(m).items() if k not in _SIZES | _PASSING} for m in (ours, theirs))
    return next(arguments) != next(arguments) or any(
        len(shape) != len(others[name]) or any(n > o for n, o in zip(shape, others[name], strict=True))
        for name, shape in mine.items()
    )


def _describe(module: nn.Module, path: str) -> Layer:
    kind = _kind(module)
    if is_parametrized(module):
        raise ArtifactError(f"{path} is parametrized: make that permanent (parametrize.remove_parametrizations)")
    if kind not in _NAMES:
        raise ArtifactError(f"{path} is a {kind.__name__} that timm does not put there, and no plain layer of torch")
    layers = {name: _describe(child, f"{path}.{name}") for name, child in module.named_children()}
    layer = Layer(kind=_NAMES[kind], arguments=_arguments(module), layers=layers or None)
    with torch.device("meta"):
        again = _build(layer)
    if _shapes(again) != _shapes(module):
        held = ", ".join(sorted(_shapes(module).keys() ^ _shapes(again).keys())) or "tensors of other shapes"
        raise ArtifactError(
            f"{path} is a {kind.__name__} that holds {held}: make weight norms and pruning masks permanent "
            "(torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
        )
    return layer


def _build(layer: Layer) -> nn.Module:
    kind = _KINDS.get(layer.kind)
    if kind is None:
        raise ArtifactError(f"layers: no plain layer of torch is called {layer.kind!r}")
    try:
        built = kind(**layer.given())
        for name, child in (layer.layers or {}).items():
            built.add_module(name, _build(child))
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"layers: torch makes no {layer.kind} of {layer.arguments}: {error}") from error
    return built


def _arguments(module: nn.Module) -> dict[str, Any]:
    """What the constructor of a plain layer takes to make this one."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in module._parameters:
            found[name] = module._parameters[name] is not None
        elif name in vars(module) and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            value = vars(module)[name]
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of `module`, whether or not it selects channels first; graphs of torch.fx have one each."""
    kind = source_type(module)
    if issubclass(kind, fx.GraphModule):
        return fx.GraphModule
    return kind.__bases__[1] if issubclass(kind, Selecting) else kind


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and saved buffers of `module` itself."""
    kept = {n: b for n, b in module._buffers.items() if n not in module._non_persistent_buffers_set}
    return {n: tuple(t.shape) for n, t in {**module._parameters, **kept}.items() if t is not None}


def _settings(module: nn.Module) -> dict[str, Any]:
    """Plain values that `module` holds as attributes, and that say what it computes."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key not in _PASSING and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if type(value) in (tuple, list, torch.Size):
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    return value is None or type(value) in (bool, int, float, str)
