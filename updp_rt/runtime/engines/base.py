"""What an engine is, and how a model runs on one while it remains the same drop-in module."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from updp_rt._marks import source_type
from updp_rt.runtime.dispatch import AccelerationError, Policy
from updp_rt.runtime.engines.outside import Outside
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.memory import Growth
from updp_rt.runtime.seeing import UNSEEN, look, look_at_tensors
from updp_rt.runtime.watching import Watched, is_transformed
from updp_rt.verification import Logits

# Of a model's own that runs on an engine; no module of a user's can be called so.
_STATE = "_updp_rt_engine"
_classes: dict[tuple[str, type[nn.Module]], type[nn.Module]] = {}

# A run of the whole model, by the shape, strides, dtype and device of its input.
Key = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class EngineError(AccelerationError):
    """An engine cannot run a model.

    Args:
        engine: its name.
        reason: why not.
    """

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(engine, reason)
        self.reason = reason

    def __str__(self) -> str:
        return "engine {!r} cannot run this model here: {}".format(*self.args)


class WrongResultsError(EngineError):
    """An engine that computes something else than the source."""

    def __init__(self, engine: str, verdict: Logits) -> None:
        super().__init__(
            engine,
            f"its results are wrong: error {verdict.error:.1e}, bound {verdict.bound:.1e}, {verdict.disagree} of "
            f"{verdict.decided} images in another class",
        )


class Engine(ABC):
    """A way to run a whole accelerated model."""

    name: ClassVar[str]

    @abstractmethod
    def supports(self, model: nn.Module, example: Tensor) -> tuple[bool, str]:
        """Whether this engine can run `model` on inputs like `example`, and if not, why."""

    @abstractmethod
    def attach(self, model: nn.Module, policy: Policy) -> None:
        """Have `model` run on this engine, in place, for the inputs that `prepare` will be given.

        Args:
            policy: how implementations of operators are chosen.
        """


class EngineState(ABC):
    """What runs a model, and for which inputs. Copies and pickles of the model carry none of it but `again`.

    Attributes:
        ready: what it can run, by the `key` of the input.
        seconds: what making it ready took.
        allowed: bytes that all it keeps may add to the memory of the process.
    """

    engine: str

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.ready: set[Any] = set()
        self.seconds, self.allowed = 0.0, math.inf
        self._taken: dict[Any, int] = {}

    @property
    def bytes(self) -> int:
        """What all it keeps added to the memory of the process."""
        return sum(self._taken.values())

    def weigh(self, key: Any, growth: Growth) -> int:
        """Bytes of what was made for the inputs of `key`, to be noted in `_taken` once it is kept.

        Raises:
            EngineError: with it, all that is kept would take more than is allowed.
        """
        self.seconds += growth.seconds
        before = self._taken.get(key, 0)
        taken = max(before, growth.bytes)  # what is made again may lie in memory that was freed
        whole = self.bytes - before + taken
        if whole > self.allowed:
            needed = f"{whole / 1e6:.0f} MB of memory, and {self.allowed / 1e6:.0f} are allowed"
            raise EngineError(self.engine, f"it takes {needed}")
        return taken

    def watch(self) -> None:
        """Take the model for what it is now; once it is changed, its modules run it."""
        modules = list(self.model.modules())
        self._modules, self.outside = modules, Outside()
        self._hooks = [h for m in modules[1:] for h in (m._forward_hooks, m._forward_pre_hooks)]
        self._quiet = UNSEEN
        if not self._stirred():
            self._quiet = look(entries=[(m.__dict__, "training") for m in modules], sizes=self._hooks)
        self._watched = Watched(modules)
        self._holders = [held for m in modules for held in (m._parameters, m._buffers) if held]
        self._forms = [_form(tensor) for tensor in self._tensors()]
        self._settled = UNSEEN

    def key(self, x: Tensor) -> Any:
        """What tells the inputs of one program from those of another."""
        return key_of(x)

    def refresh(self) -> None:
        """Run by the modules until made ready again."""
        self.ready.clear()

    @abstractmethod
    def prepare(self, example: Tensor, judge: Judge | None = None) -> None:
        """Make ready for inputs like `example`.

        Args:
            judge: of results for `example`; by default one where nothing else has been compared with float64.

        Raises:
            WrongResultsError: results that do not pass; the modules run these inputs.
        """

    @abstractmethod
    def run(self, x: Tensor) -> Any:
        """The model's outputs for an input that it is ready for."""

    def serves(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call may run here; else the modules run it, which see hooks, training and replaced parts."""
        if self.model is not model or kwargs or len(args) != 1 or type(args[0]) is not Tensor:
            return False
        x = args[0]
        ready = self.key(x) in self.ready
        if not (ready or self.follows(x)) or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return False
        if is_transformed() or torch._C._len_torch_dispatch_stack():
            return False
        if (not self._quiet.same() and self._stirred()) or self.changed():
            return False
        return ready or self.follow(x)

    def follows(self, x: Tensor) -> bool:
        """Whether `follow` is to be told of calls with inputs like `x`, for which this is not ready."""
        return False

    def follow(self, x: Tensor) -> bool:
        """Note a call that could be served, were this ready for it; whether it has been made so."""
        return False

    def _stirred(self) -> bool:
        """Whether a module has hooks, or is in training."""
        return any(self._hooks) or any(module.training for module in self._modules)

    def changed(self) -> bool:
        """Whether the model is another than the one that was watched, besides its weights' values."""
        return self._watched.changed() or not self._forms_hold() or self.outside.changed()

    def again(self) -> Callable[[nn.Module], EngineState] | None:
        """What makes a state like this for a copy of the model; None: its modules run it. It can be pickled."""
        return None

    def _tensors(self) -> list[Tensor]:
        return [tensor for held in self._holders for tensor in held.values() if tensor is not None]

    def _forms_hold(self) -> bool:
        """Whether weights have the shapes, strides and dtypes that programs were made for; seen where they moved."""
        if not self._settled.same():
            tensors = self._tensors()
            if [_form(tensor) for tensor in tensors] != self._forms:
                return False
            self._settled = look_at_tensors(self._holders, (), [(tensor, 0, 0) for tensor in tensors])
        return True


class OnEngine(nn.Module):
    """Base of the classes of models that run on an engine, to tell them by."""

    _updp_rt_fused = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Who makes another of this class, as a slice of a Sequential does, gets one of the source's.
        made: Any = self
        made.__class__ = source_type(self)
        made.__init__(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made on the fly, so copies and pickles name what it is made of.
        bare: Any = type(self).__bases__[-1]
        running: EngineState = self.__dict__[_STATE]
        state = {name: value for name, value in self.__getstate__().items() if name != _STATE}
        recipe: tuple[Any, Any] = (_bare, (bare,))
        if getattr(bare, "_updp_rt_fused", False):
            recipe = bare.__reduce_ex__(self, protocol)[:2]
        again = running.again()
        if again is None:
            return *recipe, state
        return _on_engine, (running.engine, *recipe), state | {_STATE: again}

    def __setstate__(self, state: dict[str, Any]) -> None:
        again = state[_STATE]
        super().__setstate__({name: value for name, value in state.items() if name != _STATE})
        made: Any = self
        made.__class__ = type(self).__bases__[-1]
        attach(made, again(made))


def _bare(kind: type[nn.Module]) -> nn.Module:
    empty: nn.Module = kind.__new__(kind)
    return empty


def _on_engine(engine: str, make: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    made: Any = make(*arguments)
    made.__class__ = _class_on(engine, type(made))
    empty: nn.Module = made
    return empty


def require_right(engine: str, judge: Judge, run: Callable[[Tensor], Any], more: Tensor | None = None) -> None:
    """Check results against float64.

    Args:
        judge: of results for some images.
        more: also give `run` these, of which the judge's images are the last.

    Raises:
        WrongResultsError: they do not pass.
    """
    runs = [run] if more is None else [run, lambda x: tree_map(lambda y: y[-len(x) :], run(more))]
    for each in runs:
        verdict = judge(each)
        if not verdict.passed:
            raise WrongResultsError(engine, verdict)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def key_of(x: Tensor) -> Key:
    """What a run depends on besides the weights."""
    return x.shape, x.stride(), x.dtype, x.device


def attach(model: nn.Module, state: EngineState) -> None:
    """Run `model`, as it is now, by `state` where that serves a call, in place."""
    resume(model, state)
    state.watch()


def resume(model: nn.Module, state: EngineState) -> None:
    """Run `model` by `state` again, which it was detached from."""
    model.__dict__[_STATE] = state
    model.__class__ = _class_on(state.engine, type(model))


def _class_on(engine: str, source: type[nn.Module]) -> type[nn.Module]:
    """A class of models of class `source` that run on an engine."""
    if (engine, source) not in _classes:
        plain: Callable[..., Any] = source.forward

        def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            found = state_of(self)  # None where another thread has just detached it
            serves = found is not None and found.serves(self, args, kwargs)
            return found.run(args[0]) if found and serves else plain(self, *args, **kwargs)

        names = {"__module__": source.__module__, "__doc__": source.__doc__, "forward": forward}
        _classes[engine, source] = type(source.__name__, (OnEngine, source), names)
    return _classes[engine, source]


def detach(model: nn.Module) -> None:
    """Have `model` run by its modules again, in place."""
    if isinstance(model, OnEngine):
        model.__class__ = type(model).__bases__[-1]
        del model.__dict__[_STATE]


def state_of(model: nn.Module) -> EngineState | None:
    """What runs `model`, where that is not its modules."""
    found: EngineState | None = model.__dict__.get(_STATE)
    return found


def engine_of(model: nn.Module) -> str:
    """Name of the engine that `model` runs on."""
    state = state_of(model)
    return "modules" if state is None else state.engine
