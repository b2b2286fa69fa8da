"""Triton's kernels compiled ahead of time for what the four models launch: nothing compiles when they first run."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from updp_rt.artifacts.atomic import atomic_path
from updp_rt.backends.frozen import frozen
from updp_rt.backends.fused import lacks_kernel, prepare_fused, triton_tiles
from updp_rt.kernels import DTYPES
from updp_rt.kernels.hip.objects import default_folder
from updp_rt.kernels.triton import objects
from updp_rt.kernels.triton.objects import CarriedKernel
from updp_rt.ops import LINEAR, NORM_LINEAR, ImageOperator, Problem


def build_triton(
    arch: str,
    out: Path | None = None,
    *,
    force: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Compile what the four models launch, at any batch size and in each dtype, for `arch`; no GPU is needed.

    Args:
        arch: ``gfx908`` or another of AMD's that Triton's tiles are chosen for.
        out: the folder of objects, as for HIP's kernels.
        force: compile even where neither the sources nor Triton have changed since the last time.
        advance: called with the numbers of kernels compiled and to compile, as they change.

    Returns:
        The file.
    """
    import triton

    path = (out or default_folder()) / arch / objects.FILE
    wanted = _launches(arch)
    forms = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    recipe = {"sources": objects.source_hash(), "forms": forms, "triton": triton.__version__}
    if not force and objects.recipe_of(path) == recipe:
        return path
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_compile, form, *launch, arch) for form, launch in wanted.items()]
        try:
            for done, job in enumerate(as_completed(jobs)):
                advance(done, len(jobs))
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    advance(len(jobs), len(jobs))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        objects.write_objects(temporary, recipe, [job.result() for job in jobs])
    objects.carried.cache_clear()
    return path


def fits(problem: Problem, tile: Any, arch: str) -> bool:
    """Whether a carried kernel of `arch` fits what `problem` launches on aligned tensors."""
    kernel, arguments, constants = _launch(problem, tile)
    return objects.form_of(kernel.__name__, arguments, constants) in objects.carried(arch)


def _launches(arch: str) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """By form: kernel, tile and arguments of a launch, of all tiles."""
    found: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    met = [problem for problem, _ in frozen() if lacks_kernel(problem) is None]
    for problem in (*met, *map(_other_classes, filter(_is_head, met))):
        for dtype in DTYPES:
            typed = replace(problem, dtype=dtype)
            for tile in triton_tiles(typed, arch):
                kernel, arguments, constants = _launch(typed, tile)
                form = objects.form_of(kernel.__name__, arguments, constants)
                assert form is not None
                found.setdefault(form, (kernel, tile, dict(zip(kernel.arg_names, arguments, strict=False)) | constants))
    return found


def _is_head(problem: Problem) -> bool:
    """Whether it may be a classifier: nothing comes after it."""
    return problem.operator in (LINEAR, NORM_LINEAR) and problem.act == "none" and not problem.residual


def _other_classes(problem: Problem) -> Problem:
    """`problem` with an odd number of outputs, as a classifier of a user's own may have."""
    outputs = problem.output[-1] + 1
    return replace(
        problem, weights=tuple(None if shape is None else (outputs, *shape[1:]) for shape in problem.weights)
    )


def _launch(problem: Problem, tile: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What `problem` launches: kernel, arguments and constants. Its tensors have no memory."""
    from updp_rt.kernels import triton

    def empty(shape: tuple[int, ...] | None, image: bool) -> Tensor | None:
        form = torch.channels_last if image else torch.contiguous_format
        return None if shape is None else torch.empty(shape, dtype=problem.dtype, device="meta", memory_format=form)

    image = isinstance(problem.operator, ImageOperator)
    inputs = tuple(empty(shape, image) for shape in problem.inputs)
    weights = tuple(empty(shape, False) for shape in problem.weights)
    with _recorded(problem.operator.name) as launches:
        prepare_fused(triton, problem, weights, tile)(*inputs)
    ((kernel, arguments, constants),) = launches
    return kernel, arguments, constants


@contextmanager
def _recorded(operator: str) -> Iterator[list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """Within it, the operator launches nothing; yields what it would have."""
    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    module: Any = sys.modules[f"updp_rt.kernels.triton.{operator}"]
    launch = module.launch
    module.launch = lambda kernel, grid, *arguments, **constants: launches.append((kernel, arguments, constants))
    try:
        yield launches
    finally:
        module.launch = launch


def _compile(form: str, kernel: Any, tile: Any, values: dict[str, Any], arch: str) -> CarriedKernel:
    """Compile for what `form_of` relies on, and nothing else: sizes are not known for ones or multiples of 16."""
    from updp_rt.kernels.triton.ahead import build, pointer_type

    given = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    sizes = [p.name for p in kernel.params if isinstance(values[p.name], int) and not p.is_constexpr]
    floats = [p.name for p in kernel.params if isinstance(values[p.name], float) and not p.is_constexpr]
    known = {*given, *sizes, *floats}
    compiled = build(
        kernel,
        tile,
        arch,
        types={name: pointer_type(tensor.dtype) for name, tensor in given.items()}
        | dict.fromkeys(sizes, "i32")
        | dict.fromkeys(floats, "fp32"),
        constants={name: value for name, value in values.items() if name not in known},
        multiples=given.keys(),
        near=given.keys(),
    )
    metadata = compiled.metadata
    assert not getattr(metadata, "global_scratch_size", 0)
    assert not getattr(metadata, "profile_scratch_size", 0)
    return CarriedKernel(form, metadata.name, metadata.num_warps, metadata.shared, compiled.asm["hsaco"])
