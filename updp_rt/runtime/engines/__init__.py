"""Engines: ways to run a whole accelerated model, each saying what it can run and why not.

``modules`` calls the fused modules one by one, the drop-in default; ``compiled`` has torch compile what lies between
them. The others hand the source model to another compiler. To add one, write an `Engine` and list it here.
"""

from __future__ import annotations

from torch import Tensor, nn

from updp_rt.runtime.engines.base import Engine, detach, engine_of
from updp_rt.runtime.engines.compiled import CompiledEngine
from updp_rt.runtime.engines.constant import ConstantEngine
from updp_rt.runtime.engines.graph import GraphEngine
from updp_rt.runtime.engines.inductor import InductorEngine
from updp_rt.runtime.engines.modules import ModulesEngine
from updp_rt.runtime.engines.onnxruntime import MigraphxEngine, OnnxRuntimeEngine
from updp_rt.runtime.engines.openvino import OpenVinoEngine

_ALL = (ModulesEngine, CompiledEngine, GraphEngine, InductorEngine, OnnxRuntimeEngine, OpenVinoEngine, MigraphxEngine)
ENGINES: dict[str, Engine] = {engine.name: engine() for engine in _ALL}
RUNTIMES = ("openvino", "onnxruntime", "migraphx")  # those of other packages


def parse_engine(name: str) -> Engine:
    """The engine called `name`; ValueError for one that there is not."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}: choose among {', '.join(ENGINES)} and auto")
    return ENGINES[name]


def runtimes_for(model: nn.Module, example: Tensor) -> list[str]:
    """Names of other packages' engines that are installed and can run `model` on inputs like `example`."""
    return [name for name in RUNTIMES if ENGINES[name].supports(model, example)[0]]


__all__ = ["ENGINES", "RUNTIMES", "ConstantEngine", "Engine", "detach", "engine_of", "parse_engine", "runtimes_for"]
