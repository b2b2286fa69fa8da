"""Every fused operator on the frozen problems: unfused eager torch, torch.compile, the vendor's library, our kernels.

One case is one problem of `benchmarks.shapes` at one batch size in one dtype. On a GPU the calls are replayed from
graphs, so that their launching is not counted. Weights stay the same from call to call, activations rotate.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import pytest
import torch
from torch import Tensor

from benchmarks.common import MODELS
from benchmarks.gpu_shapes import candidates, compiled, first_line, graphed, operands, prepare
from benchmarks.rotation import rotated
from benchmarks.shapes import Met, frozen_problems
from benchmarks.suite import CLOCK, Case, Measured, Settings, Tell, parametrize, settings_of
from updp_rt.backends import Kernel, Problem, Weights, arguments
from updp_rt.ops import accuracy
from updp_rt.runtime.memory import keep_freed_memory
from updp_rt.runtime.roofline import peak

SUITE = "micro"
pytestmark = pytest.mark.benchmark(timer=CLOCK)

_GRAPHED = 256  # calls in a graph, at most
_JUDGED_ROWS = 256

Inputs = list[tuple[Tensor, Tensor | None]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, list(operator_cases(settings_of(metafunc.config))))


def test_operator(case: Case, candidate: str, report: Callable[[Case, str], None]) -> None:
    report(case, candidate)


def operator_cases(settings: Settings) -> Iterator[Case]:
    """All problems, the batch sizes in the order given."""
    for batch in settings.batches_or((1, 8), (1, 128)):
        for dtype in settings.dtypes_or_default:
            chosen = frozen_problems(settings.models or MODELS, batch, getattr(torch, dtype), settings.device)
            for problem, met in chosen:
                names = ["eager", *(["compiled"] if settings.compiler != "none" else []), *candidates(problem)]
                about = {"operator": problem.operator, "dtype": dtype, "batch": batch, "met": _where(met)}
                yield Case(problem.key, about, tuple(names), partial(measure, problem, tuple(names), settings))


@torch.inference_mode()
def measure(problem: Problem, names: tuple[str, ...], settings: Settings, tell: Tell) -> Measured:
    """Judge every candidate on its last image or rows, and time those that are right side by side."""
    device = settings.place
    if device.type == "cpu":
        keep_freed_memory()  # as accelerated models have it, for all candidates alike
    x, other, weights = operands(problem, device)
    found = Measured(about={"flops": problem.flops, "bytes": problem.bytes_moved})
    inputs = rotated_inputs(problem, x, other, settings)
    turn = cycle(inputs)
    calls: dict[str, Callable[[], object]] = {}
    for name in names:
        try:
            kernel = _prepare(name, problem, weights, settings)
            reason = why_wrong(problem, kernel(x, other), x, other, weights)
            if reason is not None:
                found.red[name] = reason
            elif settings.on_gpu:
                calls[name] = graphed(partial(_run_all, kernel, inputs))[0]
            else:
                calls[name] = partial(_run_next, kernel, turn)
        except Exception as error:
            # That a compiler is missing is no finding about our kernels.
            reasons = found.left_out if name == "compiled" else found.red
            reasons[name] = f"it failed: {first_line(error)}"
    samples = settings.sample(calls, round_seconds=0.01)
    each = len(inputs) if settings.on_gpu else 1
    found.samples = {name: [seconds / each for seconds in values] for name, values in samples.items()}
    least = peak(device).least_seconds(problem)
    found.candidates = {
        name: {"roofline": round(least / statistics.median(values), 3)} for name, values in found.samples.items()
    }
    return found


def _prepare(name: str, problem: Problem, weights: Weights, settings: Settings) -> Kernel:
    if name == "compiled":
        return compiled(problem, weights, settings.compile_mode, settings.compiler)
    return prepare("reference" if name == "eager" else name, problem, weights)


def why_wrong(problem: Problem, found: Tensor, x: Tensor, other: Tensor | None, weights: Weights) -> str | None:
    """Why a result is wrong, judged on its end, where the incomplete tiles lie; None: it is right."""

    def tail(tensor: Tensor) -> Tensor:
        return tensor[-_JUDGED_ROWS if "linear" in problem.operator else -1 :]

    args = arguments(problem, tail(x), None if other is None else tail(other), weights)
    verdict = accuracy(problem.operator, tail(found), args)
    return None if verdict.passed else f"its error of {verdict.error:.1e} is above the bound of {verdict.bound:.1e}"


def rotated_inputs(problem: Problem, x: Tensor, other: Tensor | None, settings: Settings) -> Inputs:
    """Activations past the cache, the second one elsewhere in memory than the first."""
    most = {"most": _GRAPHED} if settings.on_gpu else {}
    firsts = rotated(problem.x, problem.dtype, settings.place, **most)
    if other is None:
        return [(first, None) for first in firsts]
    seconds = rotated(tuple(other.shape), problem.dtype, settings.place, **most)
    half = len(seconds) // 2
    return list(zip(firsts, cycle(seconds[half:] + seconds[:half]), strict=False))


def _run_all(kernel: Kernel, inputs: Inputs) -> None:
    for x, other in inputs:
        kernel(x, other)


def _run_next(kernel: Kernel, turn: Iterator[tuple[Tensor, Tensor | None]]) -> Tensor:
    return kernel(*next(turn))


def _where(met: Met) -> str:
    return ", ".join(f"{model} {'/'.join(variants)}" for model, variants in met.items())
