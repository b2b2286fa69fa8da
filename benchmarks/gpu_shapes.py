"""Single operators on random operands: is every kernel right on odd shapes, and what does a problem take on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from updp_rt._timing import time_side_by_side
from updp_rt.backends import BACKENDS, Geometry, Kernel, Problem, Weights, arguments
from updp_rt.ops import accuracy
from updp_rt.ops.library import plain_operator

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Input, weights, residual, activation, geometry. Of each operator: nothing a multiple of anything; multiples of 8 with
# whole tiles of depth, whose kernels load several values a lane; fewer rows and columns than any tile.
_ODD: dict[str, tuple[tuple[Any, ...], ...]] = {
    "linear": (
        ((37, 45), ((51, 45), (51,)), True, "gelu", Geometry()),
        ((200, 128), ((136, 128), None), False, "relu", Geometry()),
        ((1, 24), ((8, 24), (8,)), True, "silu", Geometry()),
    ),
    "conv2d": (
        ((2, 5, 13, 11), ((7, 5, 3, 3), (7,)), True, "gelu", Geometry((2, 2), (1, 1))),
        ((2, 64, 14, 14), ((72, 64, 5, 5), None), False, "relu", Geometry(padding=(2, 2))),
        ((1, 24, 7, 7), ((8, 24, 1, 1), (8,)), True, "relu6", Geometry()),
    ),
    "depthwise_pointwise": (
        ((2, 13, 11, 9), ((13, 1, 7, 7), (13,), (21, 13, 1, 1), (21,)), True, "gelu", Geometry(padding=(3, 3))),
        ((2, 64, 14, 14), ((64, 1, 7, 7), None, (72, 64, 1, 1), None), False, "none", Geometry(padding=(3, 3))),
        ((1, 24, 9, 9), ((24, 1, 3, 3), (24,), (8, 24, 1, 1), (8,)), False, "relu6", Geometry((2, 2), (1, 1))),
    ),
    "dual_linear": (
        ((37, 45), ((51, 45), (51, 23), (51,)), False, "gelu", Geometry()),
        ((200, 128), ((136, 128), (136, 64), None), False, "relu", Geometry()),
        ((1, 24), ((8, 24), (8, 40), (8,)), False, "none", Geometry()),
    ),
}
_ODD_IMAGES = ((2, 13, 7, 5), (3, 64, 14, 14))


def odd_problems(dtype: torch.dtype, device: torch.device) -> Iterator[Problem]:
    """Small problems of all operators that cross the borders of tiles."""
    for operator, cases in _ODD.items():
        for case in cases:
            yield Problem(operator, *case, dtype, device.type)


def operands(problem: Problem, device: torch.device) -> tuple[Tensor, Tensor | None, Weights]:
    """Random x, second input and weights of `problem`; images and their kernels in channels_last."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        tensor = torch.randn(shape, device=device).to(problem.dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor

    other = draw(problem.output) if problem.residual else None
    if problem.operator == "dual_linear":
        other = draw((problem.x[0], problem.shape("w_a")[1]))
    # Scaled so that sums stay near one, whatever their length.
    weights = tuple(None if shape is None else draw(shape) * math.prod(shape[1:]) ** -0.5 for shape in problem.weights)
    return draw(problem.x), other, weights


def candidates(problem: Problem) -> list[str]:
    """All kernels that run `problem`, as ``backend`` or ``backend:config``, besides the reference."""
    return [
        f"{name}:{config}" if config else name
        for name, backend in BACKENDS.items()
        if name != "reference" and backend.refuses(problem) is None
        for config in backend.configs(problem)
    ]


def prepare(name: str, problem: Problem, weights: Weights) -> Kernel:
    """The candidate called `name`, with these weights packed."""
    backend, _, config = name.partition(":")
    return BACKENDS[backend].prepare(problem, weights, config)


@torch.inference_mode()
def check_kernels(operator: str, dtype: torch.dtype, device: torch.device) -> list[dict[str, Any]]:
    """Judge all candidates of `operator` on its odd problems against float64, in memory that held NaN before.

    Returns:
        One row a candidate and problem: operator, dtype, candidate, problem, error and bound, why it ``failed``.
    """
    if operator == "epilogue":
        return _check_epilogue(dtype, device)
    rows = []
    for problem in odd_problems(dtype, device):
        if problem.operator != operator:
            continue
        x, other, weights = operands(problem, device)
        args = arguments(problem, x, other, weights)

        def run(name: str) -> Tensor:
            kernel = prepare(name, problem, weights)
            spoil_free_memory(problem.output, dtype, device)
            return kernel(x, other)

        for name in candidates(problem):
            rows.append(_judge(operator, name, problem.key, operator, args, partial(run, name)))
    return rows


def _check_epilogue(dtype: torch.dtype, device: torch.device) -> list[dict[str, Any]]:
    """The vendor backend's second half: judged as a convolution that multiplies each channel by one."""
    if device.type != "cuda":
        return []
    from updp_rt.kernels.triton import architecture, epilogue, tiles

    rows = []
    for shape in _ODD_IMAGES:
        channels = shape[1]
        y, residual = (torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last) for _ in range(2))
        bias, ones = torch.randn(channels, device=device).to(dtype), torch.ones(channels, 1, 1, 1, device=device)
        args = (y, ones.to(dtype), bias, residual, "gelu", (1, 1), (0, 0), channels)
        key = f"epilogue {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        for tile in tiles("epilogue", architecture(device), dtype):
            run = partial(epilogue, y.clone(), bias, residual, "gelu", tile)
            rows.append(_judge("epilogue", f"triton:{tile.name}", key, "conv2d", args, run))
    return rows


def _judge(
    kind: str, name: str, key: str, operator: str, args: tuple[Any, ...], run: Callable[[], Tensor]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "operator": kind,
        "dtype": str(args[0].dtype).removeprefix("torch."),
        "candidate": name,
        "problem": key,
    }
    try:
        verdict = accuracy(operator, run(), args)
    except Exception as error:  # a kernel that cannot even run is a finding, not the end
        return row | {"failed": first_line(error)}
    row |= {"error": verdict.error, "bound": verdict.bound}
    return row if verdict.passed else row | {"failed": f"error {verdict.error:.1e}, bound {verdict.bound:.1e}"}


def spoil_free_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """Fill blocks of the result's size with NaN and free them: the kernel's own allocation is likely one of them."""
    blocks = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(8)]
    del blocks


def spread(problems: Mapping[str, Problem], count: int) -> list[str]:
    """Up to `count` keys: all operators in turn, and of each from the least to the most memory moved."""
    by_operator: dict[str, list[str]] = {}
    for key in sorted(problems, key=lambda key: problems[key].bytes_moved):
        by_operator.setdefault(problems[key].operator, []).append(key)
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


@torch.inference_mode()
def device_times(
    problem: Problem, names: list[str], device: torch.device, compile_mode: str | None = None
) -> dict[str, float]:
    """Milliseconds of one call of each candidate, interleaved; on a GPU captured in graphs, so without launching.

    The calls go round several copies of the activations, together beyond the L2 cache where 8 of them are: within a
    model they come from memory too. With `compile_mode`, ``compiled`` is the plain operator under ``torch.compile``.
    """
    sets = [operands(problem, device) for _ in range(_copies(problem, device))]
    weights = sets[0][2]
    kernels = {name: prepare(name, problem, weights) for name in names}
    if compile_mode is not None:
        kernels["compiled"] = compiled(problem, weights, compile_mode)

    def run(kernel: Kernel) -> None:
        for x, other, _ in sets:
            kernel(x, other)

    calls: dict[str, Callable[[], object]] = {}
    for name, kernel in kernels.items():
        once = partial(run, kernel)
        calls[name] = graphed(once)[0] if device.type == "cuda" else once
    times = time_side_by_side(calls, rounds=9, device=device)
    return {name: seconds / len(sets) * 1e3 for name, seconds in times.items()}


def graphed(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Capture `run` into a CUDA or HIP graph: its replay, and the result that each replay writes anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries allocate and choose their kernels at the first calls
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


def compiled(problem: Problem, weights: Weights, mode: str | None, backend: str = "inductor") -> Kernel:
    """The plain operator under torch.compile, without graphs of its own."""
    torch._dynamo.reset()  # each problem is compiled for its own shapes
    # The graph is captured here, as the others' are: Inductor's own would copy the operands at each replay.
    mode = {"max-autotune": "max-autotune-no-cudagraphs", "reduce-overhead": "default"}.get(mode or "", mode)
    run = torch.compile(plain_operator(problem.operator), backend=backend, mode=mode, dynamic=False)
    return lambda x, other: run(*arguments(problem, x, other, weights))


def _copies(problem: Problem, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(8, 1 + 2 * cache // (math.prod(problem.x) * problem.dtype.itemsize)))


def first_line(error: BaseException) -> str:
    """Type and first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
