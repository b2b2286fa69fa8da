"""Drop-in modules: the source module itself, under a class that adds a faster way through one of its methods.

A fused module is its source module with another class: parameters, buffers, names, hooks, ``state_dict`` and
``isinstance`` stay as they were, and giving the class back restores it exactly. Copies and pickles carry no more than
how to choose; they are planned again where they wake up.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from updp_rt._copies import share_tensors
from updp_rt._marks import source_type, to_source
from updp_rt.ops import Operator
from updp_rt.ops.library import exports_plain
from updp_rt.runtime.dispatch import Policy
from updp_rt.runtime.site import Site, Slot
from updp_rt.runtime.tensors import HeldStamps
from updp_rt.runtime.watching import MOODY, Watched, is_transformed

_log = logging.getLogger("updp_rt")

# Of a fused module's own; no module of a user's can be called so.
_FUSION = "_updp_rt_fusion"
_classes: dict[tuple[Rule, type[nn.Module]], type[nn.Module]] = {}


class CannotFuseError(Exception):
    """A module stays as it is; the message says why."""


class Rule(ABC):
    """How modules of some types run on fused operators.

    Attributes:
        source: the types, exactly.
        method: the method of theirs that it stands for.
        optional: a module that cannot be fused so is no fall-back, which a strict policy would refuse.
    """

    source: ClassVar[tuple[type[nn.Module], ...]] = ()
    method: ClassVar[str] = "forward"
    optional: ClassVar[bool] = False

    @abstractmethod
    def plan(self, module: Any, fusion: Fusion) -> None:
        """Fill `fusion` with sites for `module`; raises `CannotFuseError`, which names the reason."""

    @abstractmethod
    def run(self, module: Any, fusion: Fusion, *args: Any, **kwargs: Any) -> Any:
        """The source's method, on the sites of its fusion."""


def _check_class(module: nn.Module, method: str = "forward") -> None:
    """Raise `CannotFuseError` where the class of `module` was given another method than it was written with."""
    kind = source_type(module)
    for name in (method, "_conv_forward"):
        home = next((base for base in kind.__mro__ if name in vars(base)), None)
        if home is not None and getattr(vars(home)[name], "__globals__", {}).get("__name__") != home.__module__:
            raise CannotFuseError(f"the {name} of {kind.__name__} is not that of {home.__module__}")


class Fusion:
    """What a fused module runs: its sites by name, and the modules inside it that they replace.

    Attributes:
        members: modules that the sites stand for, by the dictionary that holds them, their name there, and their path.
        usable: whether it could be planned for the module as it was then.
    """

    def __init__(self, rule: Rule, owner: nn.Module, policy: Policy) -> None:
        self.rule, self.owner, self.policy = rule, owner, policy
        self.sites: dict[str, Site] = {}
        self.members: list[tuple[dict[str, Any], str, nn.Module, str]] = []
        self.usable = False
        self._trained = False
        self._hooks: list[dict[Any, Any]] = []

    @classmethod
    def planned(cls, rule: Rule, owner: nn.Module, policy: Policy) -> Fusion:
        """A fusion of `owner` as it is now.

        Raises:
            CannotFuseError: what it holds cannot be fused.
        """
        fusion = cls(rule, owner, policy)
        _check_class(owner, rule.method)
        rule.plan(owner, fusion)
        fusion._watch()
        return fusion

    @classmethod
    def idle(cls, rule: Rule, owner: nn.Module, policy: Policy) -> Fusion:
        """A fusion of `owner` that cannot be fused as it is now, and may be once it is changed."""
        fusion = cls(rule, owner, policy)
        for path, module in owner.named_modules():
            if path:
                above, _, name = path.rpartition(".")
                fusion.members.append((owner.get_submodule(above)._modules, name, module, path))
        fusion._watch()
        fusion._hooks, fusion.usable = [], False
        return fusion

    @property
    def source(self) -> type[nn.Module]:
        """The owner's own class."""
        return source_type(self.owner)

    @cached_property
    def children(self) -> frozenset[str]:
        """Names of the owner's children that the sites stand for."""
        return frozenset(name for held, name, *_ in self.members if held is self.owner._modules)

    def absorb(self, path: str) -> Any:
        """Take over the module at `path` below the owner, with all it holds; returns it."""
        *above, name = path.split(".")
        holder = self.owner.get_submodule(".".join(above))
        module = holder.get_submodule(name)
        if "forward" in module.__dict__:
            raise CannotFuseError(f"{path} has a forward of its own")
        _check_class(module)
        self.members.append((holder._modules, name, module, path))
        for child, _ in module.named_children():
            self.absorb(f"{path}.{child}")
        return module

    def site(self, name: str, operator: Operator, tensors: dict[str, Slot], **values: Any) -> Site:
        """Add a site; arguments as of `Site`."""
        for module, tensor in tensors.values():
            if tensor not in module._parameters and tensor not in module._buffers:
                raise CannotFuseError(f"the {tensor} of {type(module).__name__} is computed from others")
        made = self.sites[name] = Site(operator, tensors, self.policy, **values)
        return made

    def active(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the fused way may be taken now; else the source's own is.

        It is not in training, be it of one norm alone, under autocast (which would choose other dtypes), while torch
        records or transforms what is called, in a replica of the module, or when a module that it stands for has got a
        hook, which must see its values. A module that was changed is planned for again.
        """
        x = args[0] if args else next(iter(kwargs.values()), None)
        if module.training or self.owner is not module or not isinstance(x, Tensor):
            if module.training:
                self._trained = True
            return False
        if torch.compiler.is_compiling():
            return self._active_while_compiling()
        if is_transformed() or any(self._hooks):
            return False
        if self._watched.changed():
            return self.plan_again()
        if self._trained:
            self.forget()
            self._trained = False
        if not self._weights.hold():
            if not self._weights.renew():
                return self.plan_again()
            for site in self.sites.values():
                site.check()
        return self.usable

    def forget(self) -> None:
        """Pack all weights again at the next call."""
        for site in self.sites.values():
            site.forget()

    def _active_while_compiling(self) -> bool:
        """As `active`, in what the compiler can follow; it guards the parts and their attributes, not hooks to come."""
        if exports_plain() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            return False
        if not self._ready():
            return False
        for (held, name, member, _), kind in zip(self.members, self._kinds, strict=True):
            owner = member.forward.__self__  # type: ignore[attr-defined]
            if held.get(name) is not member or type(member) is not kind or owner is not member:
                return False
        return all(getattr(module, name) == value for module, name, value in self._watched.constants)

    def _ready(self) -> bool:
        """Whether the fused way may be taken as far as hooks, parts and attributes go, as of now."""
        return self.usable and not any(self._hooks) and not self._watched.changed() and self._weights.fit()

    # As torch.compiler.assume_constant_result does, which loads the whole compiler: evaluated once, without guards.
    _ready._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _watch(self) -> None:
        members = [member for _, _, member, _ in self.members]
        self._hooks = [h for m in members for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._kinds = list(map(type, members))
        self._watched = Watched((self.owner, *members))
        self._weights = HeldStamps(held for site in self.sites.values() for held in site.held)
        self.usable = not any(m.training for m in members if isinstance(m, MOODY))

    def plan_again(self) -> bool:
        """Plan for the owner as it is now; whether the fused way may be taken."""
        self.forget()
        try:
            found = Fusion.planned(self.rule, self.owner, self.policy)
        except CannotFuseError as error:
            _log.info("a %s was changed and runs unfused: %s", type(self.owner).__name__, error)
            found = Fusion.idle(self.rule, self.owner, self.policy)
        self.owner.__dict__[_FUSION] = found
        return found.usable and not any(found._hooks)


class Fused(nn.Module):
    """Base of the fused modules' classes, to tell them by."""

    _updp_rt_fused = True
    _updp_rt_rule: ClassVar[Rule]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Who makes another of this class, as a slice of a Sequential does, gets one of the source's.
        made: Any = self
        made.__class__ = source_type(self)
        made.__init__(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        fusion: Fusion = self.__dict__[_FUSION]
        # The class is made on the fly, so copies and pickles name what it is made of.
        return _empty, (type(fusion.rule), source_type(self)), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {_FUSION: self.__dict__[_FUSION].policy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        policy = state[_FUSION]
        super().__setstate__(state)
        rule = type(self)._updp_rt_rule
        try:
            self.__dict__[_FUSION] = Fusion.planned(rule, self, policy)
        except CannotFuseError:
            self.__dict__[_FUSION] = Fusion.idle(rule, self, policy)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.__dict__[_FUSION].forget()  # torch swaps no tensor that others point to
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__[_FUSION].forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError(
            "torch.jit.script compiles source code, which an accelerated model runs past: script "
            "updp_rt.restore(model), its source"
        )


def fused_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Fusion]]:
    """Name, module and fusion of every fused module."""
    for name, module in model.named_modules():
        if isinstance(module, Fused):
            yield name, module, module.__dict__[_FUSION]


def fuse(module: nn.Module, rule: Rule, fusion: Fusion) -> None:
    """Turn `module` into a fused module, in place."""
    module.__dict__[_FUSION] = fusion
    module.__class__ = _fused_class(rule, type(module))


def unfuse(module: nn.Module) -> None:
    """Give `module` its own class back."""
    module.__dict__[_FUSION].forget()
    del module.__dict__[_FUSION]
    module.__class__ = source_type(module)


def source_copy(model: nn.Module) -> nn.Module:
    """The source of an accelerated model, holding the same tensors; what is packed of them stays."""
    return to_source(share_tensors(model))


def _fused_class(rule: Rule, source: type[nn.Module]) -> type[nn.Module]:
    if (rule, source) not in _classes:
        plain = getattr(source, rule.method)

        def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.__dict__[_FUSION].active(self, args, kwargs):
                return rule.run(self, self.__dict__[_FUSION], *args, **kwargs)
            return plain(self, *args, **kwargs)

        # In the source's module, so that torch.fx takes for a leaf what it took for one.
        names = {
            "__module__": source.__module__,
            "__doc__": source.__doc__,
            "_updp_rt_rule": rule,
            rule.method: method,
        }
        _classes[rule, source] = type(f"Fused{source.__name__}", (Fused, source), names)
    return _classes[rule, source]


def _empty(rule: type[Rule], source: type[nn.Module]) -> nn.Module:
    from updp_rt.runtime.rules import RULES

    found = RULES[source]
    assert type(found) is rule
    made: Any = _fused_class(found, source)
    empty: nn.Module = made.__new__(made)
    return empty
