"""What a tensor held when weights were packed from it, to tell later whether it still does."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from updp_rt.runtime.seeing import UNSEEN, look_at_tensors

_hooked = False


class Stamps:
    """The state of some tensors, or of their absence.

    A change shows in a tensor's address, in its version counter, which all of torch's updates in place move, or, on a
    CPU, in eight bytes from its middle: a write through ``tensor.data``, from NumPy or from another process moves no
    counter. What none of them shows is what `updp_rt.refresh` is for.

    Attributes:
        trackable: whether all keep a record of updates, which tensors made under ``inference_mode`` do not.
    """

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        follow_optimizers()
        self.trackable = not any(tensor is not None and tensor.is_inference() for tensor in tensors)
        self._seen: list[tuple[int, int, Any, int]] = []
        # Aliases keep the storages, so that no other tensor can take their addresses, and they can be read.
        self.aliases = [None if tensor is None else tensor.detach() for tensor in tensors]
        for tensor in tensors if self.trackable else ():
            if tensor is None:
                self._seen.append((-1, -1, None, 0))
            else:
                probe = _probe(tensor) if tensor.dim() > 1 else None
                self._seen.append((tensor.data_ptr(), tensor._version, probe, 0 if probe is None else probe.value))

    def hold(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether `tensors` are the ones that were stamped, unchanged."""
        if not self.trackable:
            return False
        try:
            for tensor, (address, version, probe, seen) in zip(tensors, self._seen):  # noqa: B905 - this is quicker
                if tensor is None:
                    if address != -1:
                        return False
                    continue
                if tensor._version != version or tensor.data_ptr() != address:
                    return False
                if probe is not None and probe.value != seen:
                    return False
        except RuntimeError:  # an inference tensor has no version
            return False
        return True


class HeldStamps:
    """The same of all tensors that a module reads, where they are held; quicker, since it is asked at every call.

    Args:
        held: each tensor by the dictionary that holds it and its name there; one may be held as None.
    """

    def __init__(self, held: Iterable[tuple[dict[str, Any], str]]) -> None:
        self._held = list(held)
        self._holders = list({id(holder): holder for holder, _ in self._held}.values())
        self._shapes: list[torch.Size | None] = []
        self.renew()

    def fit(self) -> bool:
        """Whether the same tensors are given as when they were last taken, in the same shapes."""
        return [None if tensor is None else tensor.shape for tensor in self._tensors()] == self._shapes

    def renew(self) -> bool:
        """Take the tensors as they are now; whether they `fit`."""
        tensors, fit = self._tensors(), self.fit()
        self._shapes = [None if tensor is None else tensor.shape for tensor in tensors]
        live = [tensor for tensor in tensors if tensor is not None]
        self._trackable = not any(tensor.is_inference() for tensor in live)
        self._then = [dict(holder) for holder in self._holders]
        self._live, self._versions = live, list(map(_version, live)) if self._trackable else []
        self._placed = [tensor for tensor in live if tensor.dim()]
        self._addresses = list(map(Tensor.data_ptr, self._placed))
        probes = [_probe(tensor) if tensor.dim() > 1 else None for tensor in self._placed]
        self._probes = [probe for probe in probes if probe is not None]
        self._values = list(map(_value, self._probes))
        self._looked = UNSEEN
        if self._trackable:
            placed = [(t, *_extent(probe)) for t, probe in zip(self._placed, probes, strict=True)]
            self._looked = look_at_tensors(self._holders, live, placed)
        return fit

    def hold(self) -> bool:
        """Whether the tensors are what they were."""
        if self._looked.same():
            return True
        try:
            return (
                self._holders == self._then  # the same tensors: others do not compare as a whole
                and self._trackable
                and list(map(_version, self._live)) == self._versions
                and list(map(_address, self._placed)) == self._addresses
                and list(map(_value, self._probes)) == self._values
            )
        except (RuntimeError, ValueError):  # what does not compare, or an inference tensor, which has no version
            return False

    def _tensors(self) -> list[Tensor | None]:
        return [holder.get(name) for holder, name in self._held]


_version, _value, _address = attrgetter("_version"), attrgetter("value"), Tensor.data_ptr


def _probe(tensor: Tensor) -> Any:
    """Eight bytes in the middle of a dense tensor on the CPU, as an object whose ``value`` reads them; else None."""
    size = tensor.numel() * tensor.itemsize
    dense = tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    if tensor.device.type != "cpu" or type(tensor) not in (Tensor, torch.nn.Parameter) or size == 0 or not dense:
        return None
    if tensor.untyped_storage().nbytes() < tensor.storage_offset() * tensor.itemsize + size:
        return None  # its memory has been given back, as sharding does
    kind = ctypes.c_int64 if size >= 8 else ctypes.c_int8
    wide = ctypes.sizeof(kind)
    return kind.from_address(tensor.data_ptr() + (size - wide) // 2 // wide * wide)


def _extent(probe: Any) -> tuple[int, int]:
    """Address and size of a probe's bytes."""
    return (0, 0) if probe is None else (ctypes.addressof(probe), ctypes.sizeof(probe))


def follow_optimizers() -> None:
    """Have every step of an optimizer move the version counters of what it trains: fused ones do not by themselves."""
    global _hooked  # noqa: PLW0603 - torch's hook is one for the process
    if not _hooked:
        register_optimizer_step_post_hook(_mark_trained)
        _hooked = True


def _mark_trained(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    trained = [p for group in optimizer.param_groups for p in group["params"] if not p.is_inference()]
    torch.autograd.graph.increment_version(trained)
