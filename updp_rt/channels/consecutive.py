"""The consecutive-ones problem: an order of elements in which each of several sets is one run.

Sets that overlap without one holding the other force an order upon each other, unique up to reversal; families of such
sets nest within one another (Fulkerson and Gross 1965, "Incidence matrices and interval graphs").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

Set = frozenset[int]


def consecutive_blocks(elements: Collection[int], sets: Iterable[Set]) -> list[Set] | None:
    """An ordered partition of `elements` in which every set is a run of whole blocks; None if there is no such order.

    The elements of one block may stand in any order. Takes time polynomial in the number of sets and elements.
    """
    everything = frozenset(elements)
    proper = [s for s in dict.fromkeys(sets) if 1 < len(s) < len(everything)]
    families = []
    for family in _overlap_families(proper):
        blocks = [family[0]]
        for added in family[1:]:
            placed = _place(blocks, added)
            if placed is None:
                return None
            blocks = placed
        families.append(blocks)
    # From the outermost: each family lies within one block of those that hold it.
    families.sort(key=lambda blocks: (-sum(map(len, blocks)), len(blocks)))
    order = [everything]
    for blocks in families:
        union = frozenset().union(*blocks)
        index = next(i for i, block in enumerate(order) if union & block)
        rest = order[index] - union
        order[index : index + 1] = [*blocks, rest] if rest else blocks
    return order


def _overlap_families(sets: Sequence[Set]) -> list[list[Set]]:
    """Connected families of overlapping sets, each in an order in which every set overlaps one before it."""
    left = sorted(sets, key=len, reverse=True)
    families = []
    while left:
        family = [left.pop(0)]
        for member in family:
            near = [s for s in left if member & s and member - s and s - member]
            family += near
            left = [s for s in left if s not in near]
        families.append(family)
    return families


def _place(blocks: list[Set], added: Set) -> list[Set] | None:
    """`blocks` refined so that `added` is a run too; None if impossible. `added` overlaps a run of the blocks."""
    touched = [i for i, block in enumerate(blocks) if block & added]
    first, last = touched[0], touched[-1]
    if touched != list(range(first, last + 1)) or any(blocks[i] - added for i in touched[1:-1]):
        return None
    outside = added.difference(*blocks)
    if not outside:
        return [*blocks[:first], *_split(blocks, first, last, added), *blocks[last + 1 :]]
    # What is new lies beyond an end, so the run must reach that end.
    if last == len(blocks) - 1 and (first == last or not blocks[last] - added):
        return [*blocks[:first], *_parts(blocks[first], added), *blocks[first + 1 :], outside]
    if first == 0 and (first == last or not blocks[first] - added):
        return [outside, *blocks[:last], *reversed(_parts(blocks[last], added)), *blocks[last + 1 :]]
    return None


def _split(blocks: list[Set], first: int, last: int, added: Set) -> list[Set]:
    middle = blocks[first + 1 : last]
    return [*_parts(blocks[first], added), *middle, *reversed(_parts(blocks[last], added))]


def _parts(block: Set, added: Set) -> list[Set]:
    """What of a block is not in a set, then what is."""
    return [part for part in (block - added, block & added) if part]
