"""The middle of an epoch: what it takes to go on from there and end with the same bits."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from updp_rt.pruning.stopping import Stopped, deferred

KEEP_SECONDS = 600.0  # in the middle of an epoch, no more than this is lost to a kill


@dataclass(frozen=True)
class Place:
    """A place in an epoch, between two steps of the optimizer.

    Attributes:
        batches: how many of the epoch's batches are done.
        loss, seen: the sums of their losses, and of what they count for.
        random: the states of all random numbers before the last of these batches was asked for and before the next is,
            by the batch's number: loaders draw from them, and Accelerate's is one batch ahead.
        trace: what the losses have recorded in this epoch.
    """

    batches: int = 0
    loss: float = 0.0
    seen: float = 0.0
    random: dict[int, dict[str, Any]] = field(default_factory=dict)
    trace: list[tuple[int, float]] = field(default_factory=list)


class Passing:
    """An epoch's batches from a place on, which `save` stores now and then. Those before it are read and left out.

    Args:
        loader: as Accelerate prepares them.
        trace: what the losses append to.
        save: stores a place; None where none is to be stored.

    Attributes:
        loss, seen: the sums of the losses of all batches that are done, and of what they count for.
        reached: how many of the epoch's batches are done, the one at hand among them.
        finished: set once the epoch itself is stored.
    """

    def __init__(
        self, loader: Any, start: Place, trace: list[tuple[int, float]], save: Callable[[Place], None] | None
    ) -> None:
        self.loader, self.start, self.trace, self.save = loader, start, trace, save
        self.loss, self.seen, self.reached, self.finished = start.loss, start.seen, start.batches, False
        self._before: dict[str, Any] = {}
        self._batches: Any = None
        self._saved = time.monotonic()

    def __iter__(self) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        if self.start.batches == len(self.loader):
            return
        self._batches = batches = iter(self.loader)
        for number in itertools.count():
            if number in self.start.random:
                set_random_state(self.start.random[number])
            self._before = random_state()
            batch = next(batches, None)
            if batch is None:
                return
            if number >= self.start.batches:
                self.reached = number + 1
                yield number, batch

    @property
    def at_end(self) -> bool:
        """Whether the batch at hand is the last."""
        return bool(self.loader.end_of_dataloader)

    def count(self, loss: float, share: float) -> None:
        """Add the loss of the batch at hand, which counts for `share` of a whole one."""
        self.loss, self.seen = self.loss + loss, self.seen + share

    def rest(self, ended: bool) -> bool:
        """Between two steps: `ended`, or else the place is stored if it was not for `KEEP_SECONDS`."""
        if not ended and self.save is not None and time.monotonic() - self._saved > KEEP_SECONDS:
            self.save(self._place())
            self._saved = time.monotonic()
        return ended

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Store the place between two steps where `Stopped` ends what is done within."""
        try:
            yield
        except Stopped:
            if self.save is not None and not self.finished:
                with deferred():
                    self.save(self._place())
            raise
        finally:
            if self._batches is not None:
                self._batches.close()  # processes that load images end now, not with the last reference

    def _place(self) -> Place:
        random = {self.reached - 1: self._before, self.reached: random_state()}
        return Place(self.reached, self.loss, self.seen, random, list(self.trace))


def random_state() -> dict[str, Any]:
    """The states of python's, numpy's, torch's and the GPU's random numbers, of types that a checkpoint may hold."""
    numpy = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": (numpy["state"]["key"].tolist(), *(numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"])),
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` found."""
    random.setstate(state["python"])
    key, *rest = state["numpy"]
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["device"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["device"])
