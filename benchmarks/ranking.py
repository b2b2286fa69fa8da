"""The ranking that ships for gfx908: what each kernel would take on the problems of the four models, projected."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.models import MODELS
from benchmarks.problems import DTYPES, frozen_problems
from updp_rt.backends.fused import lacks_kernel
from updp_rt.ops import Problem, part_problems
from updp_rt.projection import LABEL
from updp_rt.projection.report import Kernels
from updp_rt.runtime.dispatch import SEPARATE
from updp_rt.runtime.ranking import FOLDER, Times, write_ranking

PATH = FOLDER / "gfx908.json"
BATCHES = (1, 16, 128)  # others take the nearest one's


def ranked_problems() -> list[Problem]:
    """The frozen problems that have kernels of their own, in each dtype and at each batch size."""
    return [
        problem
        for dtype in DTYPES
        for batch in BATCHES
        for problem, _ in frozen_problems(MODELS, batch, dtype, "cpu")
        if lacks_kernel(problem) is None
    ]


def rank(advance: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Write the ranking; returns how many problems there are. The HIP kernels must have been compiled for gfx908."""
    problems, kernels = ranked_problems(), Kernels()

    def projected() -> Iterator[tuple[Problem, Times]]:
        for done, problem in enumerate(problems):
            advance(done, len(problems))
            milliseconds = {kernel.name: kernel.projection.time * 1e3 for kernel in kernels(problem)}
            if parts := part_problems(problem):
                milliseconds[SEPARATE] = sum(kernels.seconds(part) for part in parts) * 1e3
            yield problem, {name: float(f"{ms:.4g}") for name, ms in milliseconds.items()}

    write_ranking(PATH, f"milliseconds on an MI100: {LABEL}", projected())
    advance(len(problems), len(problems))
    return len(problems)
