"""torch's compiler writes calls of fused operators past torch's dispatcher, which takes as long as a small kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from updp_rt.ops import OPERATORS
from updp_rt.runtime.bound import run_operator

_registered: set[str] = set()


def call(name: str) -> Callable[..., Tensor]:
    """What compiled code calls in the place of ``torch.ops.updp_rt.<name>``, with the same arguments."""
    operator = OPERATORS[name]
    names = (*operator.arguments, *operator.folds)
    defaults = dict(zip(names, operator.defaults, strict=True))

    def run(*args: Any, **named: Any) -> Tensor:
        if len(args) < len(names):
            args = (*args, *[named.get(name, defaults[name]) for name in names[len(args) :]])
        return run_operator(operator, args)

    return run


def register_with_inductor() -> None:
    """Tell torch's compiler of all operators, where it is loaded and takes such words (torch 2.13)."""
    if len(_registered) == len(OPERATORS) or "torch._inductor.codegen.wrapper" not in sys.modules:
        return
    try:
        from torch._inductor.codegen.custom_extern_kernel_codegen import CUSTOM_EXTERN_KERNEL_CODEGEN, CustomCodegen
    except ImportError:  # it then calls them by way of the dispatcher
        _registered.update(OPERATORS)
        return
    for name in OPERATORS.keys() - _registered:
        CUSTOM_EXTERN_KERNEL_CODEGEN[f"torch.ops.updp_rt.{name}.default"] = CustomCodegen(python=partial(_write, name))
        _registered.add(name)


def _write(name: str, node: Any, writeline: Callable[[str], None]) -> None:
    from torch._inductor.virtualized import V

    V.graph.wrapper_code.add_import_once(f"from {__name__} import call as updp_rt_call")
    V.graph.wrapper_code.add_import_once(f"updp_rt_{name} = updp_rt_call({name!r})")
    given, named = node.codegen_args(), node.codegen_kwargs()
    if len(given) + len(named) == len(OPERATORS[name].defaults):  # all, in order: names only take time
        named = [text.partition("=")[2] for text in named]
    writeline(f"{node.get_name()} = updp_rt_{name}({', '.join([*given, *named])})")
