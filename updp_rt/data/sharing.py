"""What one of several processes reads of a loader: parts that are disjoint and together all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler


class PartedImages(IterableDataset[tuple[Tensor, int]], ABC):
    """Images without an index, that know how to part themselves among processes."""

    @abstractmethod
    def arranged(self, batch_size: int, seed: int) -> Self:
        """The same for batches of this size, in the order of this seed."""

    @abstractmethod
    def part(self, rank: int, processes: int) -> Self:
        """What the process `rank` of so many reads."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images are read in an epoch, by this process."""


def part_of(loader: DataLoader[Any], rank: int, processes: int) -> DataLoader[Any]:
    """The part of a loader that the process `rank` of so many reads.

    Of images in their own order it is each batch whose turn it is; `PartedImages` part themselves. All of it where no
    part can be told: one process, a data set without indices, or an order that processes may not agree on.
    """
    if processes == 1:
        return loader
    data, batches = loader.dataset, loader.batch_sampler
    kept: dict[str, Any] = {name: getattr(loader, name) for name in ("num_workers", "collate_fn", "worker_init_fn")}
    if isinstance(data, PartedImages):
        return DataLoader(data.part(rank, processes), loader.batch_size, **kept)
    if isinstance(data, IterableDataset) or batches is None or type(loader.sampler) is not SequentialSampler:
        return loader
    return DataLoader(data, batch_sampler=list(batches)[rank::processes], **kept)


def count_batches(loader: DataLoader[Any], processes: int) -> int:
    """Batches of an epoch of training in each of so many processes."""
    if isinstance(loader.dataset, PartedImages):
        return -(-len(loader.dataset.part(0, processes)) // (loader.batch_size or 1))
    if getattr(loader.batch_sampler, "drop_last", False):
        return len(loader) // processes
    return -(-len(loader) // processes)  # Accelerate fills the last round up
