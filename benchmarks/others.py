"""Other runtimes, where they are installed, that models are compared in as they are.

Nothing is checked before a call of theirs, where ours sees to it that weights, hooks and modes are as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import updp_rt
from benchmarks.protocol import LeftOut, known
from benchmarks.settings import Settings
from updp_rt.artifacts.onnx import INPUT
from updp_rt.runtime.engines import ENGINES, RUNTIMES, ConstantEngine, Engine, runtimes_for

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
    engine = _able(name, source, example)
    assert isinstance(engine, ConstantEngine)
    with torch.inference_mode(False), torch.no_grad():
        program = engine.build(source, example.clone(), wide=not engine.exact)
    return lambda x: program(x)[0]


def run_exported(source: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """`source` as `updp_rt.export` writes it to ONNX, in ONNX Runtime as it comes, on as many threads as torch.

    Raises:
        LeftOut: a package is missing, or ONNX Runtime does not run this dtype here.
        ExportError: it cannot be exported, or what was exported computes something else.
    """
    _able("onnxruntime", source, images)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    size = (images.shape[1], images.shape[2], images.shape[3])
    with TemporaryDirectory() as folder, torch.inference_mode(False), torch.no_grad():
        file = updp_rt.export(source, Path(folder) / "model.onnx", "onnx", input_size=size).path
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])

    return run


def _able(name: str, source: nn.Module, example: Tensor) -> Engine:
    engine = ENGINES[name]
    supported, reason = engine.supports(source, example)
    if not supported:
        raise LeftOut(reason)
    return engine
