"""Which kernels a GPU is projected to run fastest, where nothing has been measured on it: shipped, for known shapes.

``tables/<arch>.json`` holds projected milliseconds (`updp_rt.projection`) by problem, batch and candidate. They order
the candidates of one problem, and are shown to nobody as times. ``python -m benchmarks rank`` writes the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import torch

from updp_rt.artifacts.atomic import write_text
from updp_rt.kernels.hip.device import device_of
from updp_rt.ops import Problem

FOLDER: Final = Path(__file__).with_name("tables")

Times = dict[str, float]  # projected milliseconds by candidate


def ranking(problem: Problem, device: torch.device) -> list[str]:
    """Candidates of `problem` by their projection on `device`, fastest first; none where there is no projection.

    Of a problem that was projected at other batch sizes only, the nearest counts.
    """
    try:
        arch = device_of(device).arch
    except ValueError:
        return []
    kind, rows = _split(problem)
    known = _shipped(arch).get(kind)
    if not known or not rows:
        return []
    times = known[min(known, key=lambda other: abs(math.log(other / rows)))]
    return sorted(times, key=times.__getitem__)


def write_ranking(path: Path, what: str, projected: Iterable[tuple[Problem, Times]]) -> None:
    """Write a table of projected times, a line for each problem; `what` says what they are."""
    found: dict[str, dict[int, Times]] = {}
    for problem, times in projected:
        kind, rows = _split(problem)
        found.setdefault(kind, {})[rows] = times
    lines = (f"{json.dumps(kind)}: {json.dumps(by_rows)}" for kind, by_rows in found.items())
    write_text(path, f'{{"what": {json.dumps(what)}, "problems": {{\n' + ",\n".join(lines) + "\n}}\n")


def _split(problem: Problem) -> tuple[str, int]:
    """What the problem is called whatever its batch and device, and how many images or rows it has."""
    inputs = tuple(None if shape is None else (1, *shape[1:]) for shape in problem.inputs)
    return replace(problem, inputs=inputs).key.removesuffix(f" {problem.device}"), problem.x[0]


@cache
def _shipped(arch: str) -> dict[str, dict[int, Times]]:
    path = FOLDER / f"{arch}.json"
    if not path.is_file():
        return {}
    problems = json.loads(path.read_text(encoding="utf-8"))["problems"]
    return {kind: {int(rows): times for rows, times in by_rows.items()} for kind, by_rows in problems.items()}
