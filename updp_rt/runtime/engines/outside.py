"""What a program has read and no module holds itself: values in lists, dictionaries, objects and globals."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

# Modules' own dictionaries, which are watched, and what is ours.
_KNOWN = re.compile(r"updp_rt|\.__\w+__|\._(modules|parameters|buffers|\w*hooks\w*)$")
_GLOBAL = re.compile(r"(G\[.*\])\.(\w+)")


class Outside:
    """Those values, as they were when the program was made."""

    def __init__(self) -> None:
        self._seen: list[tuple[Callable[[], Any], Any]] = []

    def take(self, guards: Sequence[Any]) -> list[bool]:
        """Remember what these guards of torch's compiler are for; none of them is kept."""
        modules = {guard.name: guard.value for guard in guards if isinstance(guard.value, ModuleType)}
        for guard in guards:
            if _KNOWN.search(guard.name):
                continue
            held, place = contents(guard.value), _GLOBAL.fullmatch(guard.name)
            if held is not None:
                self._seen.append((partial(_itself, held), copy.copy(held)))
            elif guard.guard_type in ("CONSTANT_MATCH", "EQUALS_MATCH") and place and place[1] in modules:
                self._seen.append((partial(vars(modules[place[1]]).get, place[2]), guard.value))
        return [False] * len(guards)

    def watch(self, values: Iterable[tuple[Callable[[], Any], Any]]) -> None:
        """Remember values, each as how to get it now and what it was."""
        self._seen += values

    def changed(self) -> bool:
        """Whether one of them is no longer what it was."""
        try:
            return any(get() != then for get, then in self._seen) if self._seen else False
        except (RuntimeError, ValueError):  # tensors and arrays, which do not compare
            return True


def contents(value: Any) -> Any:
    """What may change in `value` without its place being given another; None where nothing may, or it is watched."""
    if isinstance(value, list | dict | set):
        return value
    if isinstance(value, nn.Module | Tensor | type | ModuleType | FunctionType | Enum):
        return None
    return getattr(value, "__dict__", None)


def _itself(value: Any) -> Any:
    return value
