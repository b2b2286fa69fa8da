"""Engines: ways to run a whole accelerated model, each saying what it can run and why not.

``modules`` calls the fused modules one by one, the drop-in default. To add another, write an `Engine` and list it here.
"""

from __future__ import annotations

from updp_rt.runtime.engines.base import Engine, detach, engine_of
from updp_rt.runtime.engines.compiled import CompiledEngine
from updp_rt.runtime.engines.modules import ModulesEngine

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (ModulesEngine(), CompiledEngine())}


def parse_engine(name: str) -> Engine:
    """The engine called `name`; ValueError for one that there is not."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: choose among {', '.join(ENGINES)}")
    return ENGINES[name]


__all__ = ["ENGINES", "Engine", "detach", "engine_of", "parse_engine"]
