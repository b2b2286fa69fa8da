"""One fused operator at its place in a module: it follows the module's parameters and runs the kernel chosen."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from updp_rt.backends import Geometry, Kernel, Problem
from updp_rt.ops.library import InferenceOnlyError, conv_shape, define_operator, memory_format
from updp_rt.runtime.dispatch import Choice, Policy, choose
from updp_rt.runtime.sources import Slot, Source

_log = logging.getLogger("updp_rt")
_sites: weakref.WeakValueDictionary[int, Site] = weakref.WeakValueDictionary()
_handles = itertools.count()

# The call, by what a kernel may depend on besides the weights: shape, dtype, whether there is a second input.
_Call = tuple[torch.Size, torch.dtype, bool]


class Site:
    """A fused operator with its weights.

    Packed weights follow their source: before each call the source tensors' storages and version counters are compared
    with those packed, so updates in place, ``load_state_dict``, ``.to()`` and replaced parameters are seen. (Only a
    write through ``tensor.data`` or from outside torch moves no version counter, and is not.)

    Args:
        operator: linear, conv2d, depthwise_pointwise, dual_linear or attention.
        source: where the weights come from.
        act: the activation.
        geometry: of a convolution.
        policy: how kernels are chosen.
    """

    def __init__(
        self,
        operator: str,
        source: Source,
        act: str = "none",
        geometry: Geometry = Geometry(),  # noqa: B008 - it is frozen
        policy: Policy = Policy(),  # noqa: B008
    ) -> None:
        self.operator = operator
        self.source = source
        self.act = act
        self.geometry = geometry
        self.policy = policy
        self._start()

    def _start(self) -> None:
        self.choices: dict[str, Choice] = {}
        self.handle = next(_handles)
        _sites[self.handle] = self
        self._packed: _Packed | None = None

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Run on x and the residual (or dual_linear's second input)."""
        if torch.compiler.is_compiling():
            return torch.ops.updp_rt.site(x, other, self.handle)
        if torch.is_grad_enabled():
            return self._without_gradient(x, other)
        packed = self._packed
        if packed is not None:
            kernel = packed.kernels.get((x.shape, x.dtype, other is None))
            if kernel is not None and packed.is_fresh():
                return kernel(x, other)
        return self._kernel(x, other)(x, other)

    def output_shape(self, x: Tensor) -> tuple[int, ...]:
        """Shape of the result for `x`."""
        if self.operator == "attention":
            return (*x.shape[:-1], x.shape[-1] // 3)
        kernel = self.source.kernel_shape()
        if "linear" in self.operator:
            return (*x.shape[:-1], kernel[0])
        return conv_shape(x.shape, kernel, self.geometry.stride, self.geometry.padding)

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Choice]]:
        """The choices of the calls made inside, by problem, and only those; afterwards all are known again."""
        known, kernels = self.choices, {} if self._packed is None else self._packed.kernels
        if self._packed is not None:
            self._packed.kernels = {}  # so that each call asks for its kernel anew, with the weights packed before
        self.choices = {}
        try:
            yield self.choices
        finally:
            self.choices = known | self.choices
            if self._packed is not None and self._packed.is_fresh():
                self._packed.kernels = kernels | self._packed.kernels

    def _kernel(self, x: Tensor, other: Tensor | None) -> Kernel:
        packed = self._packed
        if packed is None or not packed.is_fresh():
            packed = _Packed(self.source)
            self.choices.clear()
        weights = self.source.weights()
        problem = Problem.of(self.operator, x, other, weights, self.act, self.geometry)
        choice, kernel = choose(problem, weights, x, other, self.policy, packed.prepared[problem.residual])
        if not choice.provisional:
            self.choices[problem.key] = choice
            packed.kernels[(x.shape, x.dtype, other is None)] = kernel
        self._packed = packed
        return kernel

    def _without_gradient(self, x: Tensor, other: Tensor | None) -> Tensor:
        with torch.no_grad():
            y = self(x, other)
        tensors = [x, other, *(tensors.get(name) for tensors, name in self.source.slots())]
        wanting = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
        return _NoGradient.apply(y, *wanting) if wanting else y

    def __getstate__(self) -> dict[str, Any]:
        # Packed weights can be neither copied nor pickled; they are made anew from the source.
        state = self.__dict__.copy()
        for name in ("choices", "handle", "_packed"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class _Packed:
    """Kernels with packed weights, and the state of the source tensors they were packed from."""

    def __init__(self, source: Source) -> None:
        self._stamps: list[tuple[Any, str, int, int]] = []
        self._absent: list[Slot] = []
        # Aliases keep the storages, so that no other tensor can take their addresses unnoticed.
        self._aliases: list[Tensor] = []
        self.trackable = True
        for tensors, name in source.slots():
            tensor = tensors.get(name)
            if tensor is None:
                self._absent.append((tensors, name))
            elif tensor.is_inference():
                self.trackable = False
                _log.warning(
                    "weights moved or made under torch.inference_mode() keep no record of updates, so they are packed "
                    "again at every call, which is slow: call .to() or load them outside inference_mode"
                )
            else:
                self._stamps.append((tensors, name, tensor.data_ptr(), tensor._version))
                self._aliases.append(tensor.detach())
        self.kernels: dict[_Call, Kernel] = {}
        # By whether there is a residual, then by candidate: shared by all shapes that choose the same one.
        self.prepared: dict[bool, dict[str, Kernel]] = {False: {}, True: {}}

    def is_fresh(self) -> bool:
        if not self.trackable:
            return False
        try:
            for tensors, name, address, version in self._stamps:
                tensor = tensors[name]
                if tensor._version != version or tensor.data_ptr() != address:
                    return False
        except (KeyError, AttributeError, RuntimeError):  # gone, None, or an inference tensor, which has no version
            return False
        return all([tensors.get(name) is None for tensors, name in self._absent])  # noqa: C419 - quicker


class _NoGradient(torch.autograd.Function):
    """The identity, with a clear error for a gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *wanting: Tensor) -> Tensor:
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise InferenceOnlyError


def _run_site(x: Tensor, other: Tensor | None, handle: int) -> Tensor:
    return _sites[handle](x, other)


def _fake_site(x: Tensor, other: Tensor | None, handle: int) -> Tensor:
    site = _sites[handle]
    return torch.empty(site.output_shape(x), dtype=x.dtype, device=x.device, memory_format=memory_format(site.operator))


# How a compiled model calls a site: opaque to the compiler, so packed weights and the choice of kernel stay its own.
define_operator("site", "(Tensor x, Tensor? other, int handle) -> Tensor", _run_site, _fake_site)
