"""The order of training images, and their random changes: both follow from the seed and the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from updp_rt.data.pictures import EmptyBatchError

_BITS = 2**64 - 1


class EpochSampler(Sampler[int]):
    """A shuffle that depends on the seed and the epoch alone, so that a resumed epoch sees the same order."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


class SeededImages(Dataset[Any]):
    """Images of a data set whose random changes depend on the seed, the epoch and the image alone.

    So it does not matter which process or worker loads an image, nor what it loaded before: several processes train on
    what one would.

    Args:
        data: changes images by the global generators of Python, NumPy or torch, if at all.
        order: the sampler that the images are drawn by, whose seed and epoch count.
    """

    def __init__(self, data: Dataset[Any], order: EpochSampler) -> None:
        self.data, self.order = data, order

    def __len__(self) -> int:
        return self.order.length

    def __getitem__(self, index: int) -> Any:
        with numbers_kept():
            self._seed(index)
            return self.data[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        fetch = getattr(self.data, "__getitems__", None)
        found: list[Any] = []
        with numbers_kept():
            for index in indices:
                self._seed(index)
                try:
                    found += fetch([index]) if fetch else [self.data[index]]
                except EmptyBatchError:  # this one was left out, and named
                    continue
        if not found:
            raise EmptyBatchError.of(len(indices))
        return found

    def _seed(self, index: int) -> None:
        seed_numbers(mix(self.order.seed, self.order.epoch, index))


@contextmanager
def numbers_kept() -> Iterator[None]:
    """Afterwards the global generators of Python, NumPy and torch (on the CPU) go on as if nothing had been drawn."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


def seed_numbers(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch; those of GPUs stay as they are."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def mix(*numbers: int) -> int:
    """A seed of 32 bits from whole numbers, in their order: SplitMix64's last steps over each."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _BITS
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _BITS
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _BITS
        state ^= state >> 31
    return state >> 32
