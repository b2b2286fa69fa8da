"""Long work says how far it is; nobody hears it unless a command listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Listener = Callable[[str, int, int], None]  # what is done, how much of it, of how much

_listener: Listener | None = None


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within it, `listener` is told what `tell` is."""
    global _listener  # noqa: PLW0603 - one terminal, one who writes to it
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def tell(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` steps of `what` are done."""
    if _listener is not None:
        _listener(what, done, total)


def steps(items: Sequence[T], what: str) -> Iterator[T]:
    """`items`, each a step of `what` that is told of when it is done."""
    tell(what, 0, len(items))
    for done, item in enumerate(items, 1):
        yield item
        tell(what, done, len(items))
