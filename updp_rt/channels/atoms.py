"""Atoms: one number for every channel of every tensor, and which of them are the same channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Channels:
    """Where a tensor holds its channels: along dimension `axis`, one atom each."""

    axis: int
    atoms: Ints


@dataclass(frozen=True)
class Parts:
    """Where a tensor holds channels that a reshape took apart: along dimensions `axes`, ascending, one atom each place.

    `attended` says that attention made them: heads, then channels.
    """

    axes: tuple[int, ...]
    atoms: Ints
    attended: bool = False


class Atoms:
    """A growing set of atoms with union-find: what an addition joins is one channel from then on.

    An atom is *closed* if its channel must stay, and *pinned* if it must stay where it is among its neighbours too.
    `sources` are the lists of atoms that one operator made; atoms of the same sources may trade places. `coupled` are
    those that stay or go together.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.sources: list[Ints] = []
        self.coupled: list[Ints] = []
        self._closed: dict[int, str] = {}
        self._pinned: set[int] = set()

    def make(self, count: int) -> Ints:
        """`count` new atoms, as made by one operator."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        made = np.arange(start, start + count, dtype=np.int64)
        self.sources.append(made)
        return made

    def find(self, atom: int) -> int:
        root = atom
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[atom] != root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def union(self, one: Ints, other: Ints) -> None:
        """Join two lists of atoms of the same length, index by index."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            first, second = sorted((self.find(a), self.find(b)))
            self._parent[second] = first

    def close(self, atoms: Ints, reason: str, *, pin: bool = True) -> None:
        """Keep these channels; with `pin` also their order."""
        for atom in atoms.tolist():
            self._closed.setdefault(atom, reason)
        if pin:
            self.pin(atoms)

    def pin(self, atoms: Ints) -> None:
        """Keep the order of those of these channels that stay."""
        self._pinned.update(atoms.tolist())

    def roots(self, atoms: Ints) -> Ints:
        return np.fromiter((self.find(a) for a in atoms.tolist()), dtype=np.int64, count=len(atoms))

    def closed(self) -> dict[int, str]:
        """Reason by root, of every closed atom."""
        return {self.find(atom): reason for atom, reason in reversed(self._closed.items())}

    def pinned(self) -> set[int]:
        return {self.find(atom) for atom in self._pinned}
