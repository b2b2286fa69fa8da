"""Whether objects are still the very ones that were seen before, asked before every call of a model.

Built from csrc/seen. It runs no Python code. What it is asked of stays alive as long as it does. Importing it raises
ImportError where torch is not loaded, or is not as it is known here.
"""

from typing import Any

class Seen:
    """What was looked at; a copy, and one made without `see`, is of nothing, and never the same."""

    def same(self) -> bool:
        """Whether nothing is another object than it was, and no number another."""

def see(
    *,
    entries: list[tuple[dict[str, Any], str]] = ...,
    contents: list[dict[Any, Any]] = ...,
    sizes: list[dict[Any, Any]] = ...,
    objects: list[Any] = ...,
    versioned: list[Any] = ...,
    placed: list[tuple[Any, int, int]] = ...,
) -> Seen:
    """Look at all this as it is now.

    Args:
        entries: a dictionary and the name of a value in it.
        contents: dictionaries with their keys, values and order.
        sizes: dictionaries, of which the number of entries counts.
        objects: of which the type counts.
        versioned: tensors, of which the version counts.
        placed: tensors whose address counts, each with the address of up to eight bytes of its memory, and how many.

    Raises:
        KeyError, TypeError: there is no such entry, or what should be a tensor is none that is known here.
    """
