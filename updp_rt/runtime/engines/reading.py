"""What the Python code of a model reads besides its modules: for graphs, which are recorded once and run no Python.

The code is looked at without being run: the forward of each module's class, and what that names, methods and functions,
in turn. A name made at run time, as by ``getattr(self, "scale" + n)``, is not seen.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from updp_rt._marks import source_type
from updp_rt.runtime.engines.outside import contents

_DEEP = 3  # a list in a dictionary in an object
_PLAIN = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))
# Whose own code reads nothing of a model's.
_LIBRARIES = frozenset(("torch", "numpy", "updp_rt", *sys.stdlib_module_names)) - {"__main__"}

# How to get a value now, and what it was.
Seen = tuple[Callable[[], Any], Any]


def values_read(modules: Iterable[nn.Module]) -> list[Seen]:
    """Globals, and the contents of lists, dictionaries, sets and objects, that the code of `modules` names."""
    found = list(modules)
    helpers = {type(value) for module in found for value in module.__dict__.values()}
    reader = _Reader(dict.fromkeys((*map(source_type, found), *filter(_is_written, helpers))))
    seen = list(reader.globals())
    for module in found:
        for name in module.__dict__.keys() & reader.names:
            seen += reader.inside(module.__dict__[name])
    return seen


class _Reader:
    """The functions that a forward of some classes may call, and the names in their code."""

    def __init__(self, kinds: Iterable[type]) -> None:
        self.names: set[str] = set()
        self._functions: dict[CodeType, FunctionType] = {}
        self._methods: dict[str, list[FunctionType]] = {}
        for kind in kinds:
            for name, method in _methods(kind):
                self._methods.setdefault(name, []).append(method)
        self._name("forward")
        self._name("__call__")

    def _name(self, name: str) -> None:
        if name not in self.names:
            self.names.add(name)
            for method in self._methods.get(name, ()):
                self._read(method)

    def _read(self, function: FunctionType) -> None:
        if function.__code__ in self._functions:
            return
        self._functions[function.__code__] = function
        named = set(_names(function.__code__))
        for value in (*map(function.__globals__.get, named), *_captured(function)):
            if isinstance(value, FunctionType) and _is_written(value):
                self._read(value)
        for name in named:
            self._name(name)

    def globals(self) -> Iterator[Seen]:
        """What the functions read of their modules, of others, and of the functions around them."""
        places: dict[tuple[int, str], dict[str, Any]] = {}
        for function in self._functions.values():
            own = function.__globals__
            named = own.keys() & self.names
            homes = [own, *(vars(own[n]) for n in named if isinstance(own[n], ModuleType) and _is_written(own[n]))]
            places |= {(id(home), name): home for home in homes for name in home.keys() & self.names}
            for value in _captured(function):
                yield from self.inside(value)
        for (_, name), home in places.items():
            value = home[name]
            if isinstance(value, _PLAIN):
                yield partial(home.get, name), value
            elif not isinstance(value, ModuleType):
                yield partial(_held, home, name), _Is(value)
                yield from self.inside(value)

    def inside(self, value: Any, depth: int = _DEEP) -> Iterator[Seen]:
        """What is in a container or object, and in those that it holds."""
        held = contents(value)
        if held is None or not depth:
            return
        if held is value:
            yield partial(_itself, held), copy.copy(held)
            parts = list(held.values() if isinstance(held, dict) else held)
        else:  # an object, of which only what is named is read
            names = held.keys() & self.names
            yield partial(_named, held, names), _named(held, names)
            parts = [held[name] for name in names]
        for part in parts:
            yield from self.inside(part, depth - 1)


def _methods(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """Methods, properties and the like of a class, by name."""
    for base in filter(_is_written, kind.__mro__):
        for name, value in vars(base).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                yield name, function


def _is_written(thing: Any) -> bool:
    """Whether a class, function or module is no library's."""
    module = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    return (module or "").partition(".")[0] not in _LIBRARIES


def _names(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes, and texts that getattr may be given, also of what is defined inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            yield constant


def _captured(function: FunctionType) -> Iterator[Any]:
    """Values of variables of the functions around it."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # it has none yet
            continue


class _Is:
    """Equal to another of the same object: functions, and what may not compare."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Is) and other._value is self._value

    __hash__ = None  # type: ignore[assignment]


def _held(home: dict[str, Any], name: str) -> _Is:
    return _Is(home.get(name))


def _named(held: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: held.get(name) for name in names}


def _itself(value: Any) -> Any:
    return value
