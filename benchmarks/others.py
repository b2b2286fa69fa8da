"""Other runtimes, where they are installed, that models are compared in as they are.

Nothing is checked before a call of theirs, where ours sees to it that weights, hooks and modes are as they were.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.protocol import LeftOut, known
from benchmarks.settings import Settings
from updp_rt.runtime.engines import ENGINES, RUNTIMES, ConstantEngine, runtimes_for

# Before a candidate is timed: the threads of these go on spinning after a call.
ALONE_SECONDS = 0.1


def runtimes(settings: Settings) -> tuple[str, ...]:
    """Those that the settings name; by default those that are installed and run on the device.

    Raises:
        ValueError: there is no such.
    """
    if settings.engines is not None:
        return () if settings.engines == ("none",) else known("engine", settings.engines, RUNTIMES)
    return tuple(runtimes_for(nn.Identity(), torch.zeros(1, 3, 8, 8, device=settings.place)))


def run_in(name: str, source: nn.Module, example: Tensor) -> Callable[[Tensor], Tensor]:
    """`source` in one of them, or in frozen Inductor, built for `example`.

    Raises:
        LeftOut: it cannot run it here.
    """
    engine = ENGINES[name]
    assert isinstance(engine, ConstantEngine)
    supported, reason = engine.supports(source, example)
    if not supported:
        raise LeftOut(reason)
    with torch.inference_mode(False), torch.no_grad():
        program = engine.build(source, example.clone(), wide=not engine.exact)
    return lambda x: program(x)[0]
