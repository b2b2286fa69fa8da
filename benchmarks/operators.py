"""Single operators on random operands: which kernels run a problem, whether one is right, and its calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import graphed
from benchmarks.protocol import Measured, Wrong, race, turning
from benchmarks.rotation import rotated
from benchmarks.settings import Settings
from updp_rt.backends import BACKENDS, Prepared
from updp_rt.ops import CONV2D, Operator, Problem, Weights, accuracy
from updp_rt.runtime import explanation
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.roofline import peak

_GRAPHED = 256  # calls in a graph, at most
_ODD_IMAGES = ((2, 13, 7, 5), (3, 64, 14, 14))

Check = Callable[[], dict[str, float]]  # error and bound of a kernel; raises `Wrong`
Inputs = tuple[Tensor | None, ...]


def operands(problem: Problem, device: torch.device) -> tuple[Inputs, Weights]:
    """Random inputs and weights of `problem`; images and their kernels in channels_last."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, device=device).to(problem.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor

    # Scaled so that sums stay near one, whatever their length.
    weights = tuple(None if shape is None else draw(shape) * math.prod(shape[1:]) ** -0.5 for shape in problem.weights)
    return tuple(None if shape is None else draw(shape) for shape in problem.inputs), weights


def candidates(problem: Problem) -> list[str]:
    """All kernels that run `problem`, as ``backend`` or ``backend:config``, besides the reference."""
    return [
        f"{name}:{config}" if config else name
        for name, backend in BACKENDS.items()
        if name != "reference" and backend.refuses(problem) is None
        for config in backend.configs(problem)
    ]


def prepare(name: str, problem: Problem, weights: Weights) -> Prepared:
    """The candidate called `name`, with these weights packed."""
    backend, _, config = name.partition(":")
    return BACKENDS[backend].prepare(problem, weights, config)


def compiled(problem: Problem, weights: Weights, settings: Settings) -> Prepared:
    """The plain operator under torch.compile, without graphs of its own."""
    torch._dynamo.reset()  # each problem is compiled for its own shapes
    # The graph is captured here, as the others' are: Inductor's own would copy the operands at each replay.
    given = settings.compile_mode
    mode = {"max-autotune": "max-autotune-no-cudagraphs", "reduce-overhead": "default"}.get(given or "", given)
    plain = BACKENDS["reference"].prepare(problem, weights, "")
    run: Prepared = torch.compile(plain, backend=settings.compiler, mode=mode, dynamic=False)
    return run


@torch.inference_mode()
def race_kernels(
    problem: Problem, names: tuple[str, ...], settings: Settings, known_wrong: Mapping[str, str] | None = None
) -> Measured:
    """Judge every candidate on its last image or rows, and time those that are right.

    On a GPU the calls are replayed from graphs, so that their launching is not counted. Weights stay the same from call
    to call, activations rotate. Each row says what share of the roofline its time is.

    Args:
        names: as `candidates` gives them, "eager" and "compiled".
        known_wrong: candidates that are not to be timed, and why.
    """
    first, weights = operands(problem, settings.place)
    inputs = _rotated_inputs(problem, settings)

    def prepared(name: str) -> Callable[[], object]:
        if known_wrong and name in known_wrong:
            raise Wrong(known_wrong[name])
        if name == "compiled":
            kernel = compiled(problem, weights, settings)
        else:
            kernel = prepare("reference" if name == "eager" else name, problem, weights)
        require_operator(problem, kernel(*first), first, weights)
        run = partial(_apply, kernel)
        return graphed(partial(_run_all, run, inputs))[0] if settings.on_gpu else turning(run, inputs)

    found = race(settings, {name: partial(prepared, name) for name in names}, round_seconds=0.01)
    each = len(inputs) if settings.on_gpu else 1
    found.samples = {name: [seconds / each for seconds in values] for name, values in found.samples.items()}
    least = peak(settings.place).least_seconds(problem)
    found.values = {
        name: {"roofline": round(least / sorted(values)[len(values) // 2], 3)} for name, values in found.samples.items()
    }
    found.about = {"flops": problem.flops, "bytes": problem.bytes_moved}
    return found


def require_operator(problem: Problem, found: Tensor, inputs: Inputs, weights: Weights) -> None:
    """Judge a result on its end, where the incomplete tiles lie.

    Raises:
        Wrong: its error is above the runtime's bound.
    """

    operator = problem.operator
    end = tuple(None if x is None else operator.tail(x) for x in inputs)
    _require(operator, operator.tail(found), operator.assemble(end, weights, problem.attributes))


@torch.inference_mode()
def check_kernel(name: str, problem: Problem, device: torch.device) -> dict[str, float]:
    """Judge one candidate on a whole problem, in memory that held NaN before; error and bound.

    Raises:
        Wrong: it is off by more than the bound.
    """
    inputs, weights = operands(problem, device)
    kernel = prepare(name, problem, weights)
    spoil_free_memory(problem.output, problem.dtype, device)
    args = problem.operator.assemble(inputs, weights, problem.attributes)
    return _require(problem.operator, kernel(*inputs), args)


def epilogue_checks(
    dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, str, Callable[[], dict[str, float]]]]:
    """Each tile of the vendor backend's second half: its problem's name, its own, and its judgement.

    It is judged as a convolution that multiplies each channel by one.
    """
    from updp_rt.kernels.architecture import architecture
    from updp_rt.kernels.triton import tiles

    for shape in _ODD_IMAGES:
        for tile in tiles("epilogue", architecture(device), dtype):
            name = f"epilogue {'x'.join(map(str, shape))}"
            yield name, f"triton:{tile.name}", partial(_check_epilogue, dtype, device, shape, tile)


def _check_epilogue(dtype: torch.dtype, device: torch.device, shape: tuple[int, ...], tile: Any) -> dict[str, float]:
    from updp_rt.kernels.triton import epilogue

    channels = shape[1]
    y, residual = (torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    bias, ones = torch.randn(channels, device=device).to(dtype), torch.ones(channels, 1, 1, 1, device=device)
    args = (y, ones.to(dtype), bias, residual, "gelu", (1, 1), (0, 0), channels)
    return _require(CONV2D, epilogue(y.clone(), bias, residual, "gelu", tile), args)


def problems_met(fast: nn.Module) -> dict[str, tuple[Problem, explanation.Row]]:
    """What an accelerated model runs: by the problem's name, the problem and what `explain` says of it."""
    problems = {
        choice.problem.key: choice.problem
        for _, _, fusion in fused_modules(fast)
        for site in fusion.sites.values()
        for choice in site.choices.values()
    }
    return {row.problem: (problems[row.problem], row) for row in explanation.explain(fast).rows}


def spoil_free_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Fill blocks of the result's size with NaN and free them: the kernel's own allocation is likely one of them."""
    blocks = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(8)]
    del blocks


def spread(problems: Mapping[str, Problem], count: int) -> list[str]:
    """Up to `count` keys: all operators in turn, and of each from the least to the most memory moved."""
    by_operator: dict[str, list[str]] = {}
    for key in sorted(problems, key=lambda key: problems[key].bytes_moved):
        by_operator.setdefault(problems[key].operator.name, []).append(key)
    share = max(1, count // max(1, len(by_operator)))
    chosen = [key for keys in by_operator.values() for key in _evenly(keys, share)]
    rest = [key for key in problems if key not in chosen]
    return [*chosen, *_evenly(rest, count - len(chosen))][:count]


def _evenly(keys: list[str], count: int) -> list[str]:
    if count < 1 or not keys:
        return []
    if count >= len(keys):
        return keys
    return [keys[round(i * (len(keys) - 1) / max(1, count - 1))] for i in range(count)]


def _require(operator: Operator, found: Tensor, args: tuple[Any, ...]) -> dict[str, float]:
    verdict = accuracy(operator, found, args)
    if not verdict.passed:
        raise Wrong(f"its error of {verdict.error:.1e} is above the bound of {verdict.bound:.1e}")
    return {"error": verdict.error, "bound": verdict.bound}


def _rotated_inputs(problem: Problem, settings: Settings) -> list[Inputs]:
    """Activations past the cache, those after the first elsewhere in memory than it."""
    most = {"most": _GRAPHED} if settings.on_gpu else {}
    shapes = [shape for shape in problem.inputs if shape is not None]
    first, *others = (rotated(shape, problem.dtype, settings.place, **most) for shape in shapes)
    turned = iter([first, *(cycle(other[len(other) // 2 :] + other[: len(other) // 2]) for other in others)])
    columns = [cycle([None]) if shape is None else next(turned) for shape in problem.inputs]
    return list(zip(*columns, strict=False))


def _apply(kernel: Prepared, inputs: Inputs) -> Tensor:
    return kernel(*inputs)


def _run_all(run: Callable[[Inputs], Tensor], inputs: list[Inputs]) -> None:
    for given in inputs:
        run(given)
