"""The problems that are measured, projected and checked. No other file here builds one or asks which operator it is.

Frozen are all that the four models meet (`updp_rt.backends.frozen`). ``python -m benchmarks freeze`` writes them from
the models; a test compares the two.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.models import MODELS
from updp_rt.artifacts.atomic import write_text
from updp_rt.backends.frozen import PATH, Met, frozen
from updp_rt.backends.fused import lacks_kernel
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.ops import (
    ADD_LAYER_NORM,
    CONV2D,
    CONV2D_MAX_POOL,
    DEPTHWISE_POINTWISE,
    DUAL_LINEAR,
    INVERTED_RESIDUAL,
    LAYER_NORM,
    LINEAR,
    MLP,
    NORM_LINEAR,
    Operator,
    Problem,
    part_problems,
)
from updp_rt.projection.problems import model_problems

VARIANTS = ("P0", "half", "all")  # half: every other block, from the first on; each in its family's first form
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Of the projection: all that these models meet at batch 128 and that has a kernel of the project's own.
PROJECTED = ("deit_tiny_patch16_224", "convnext_tiny", "resnet34")
PROJECTED_BATCH = 128

# Of each operator: nothing a multiple of anything; multiples of 8 with whole tiles of depth, whose kernels load several
# values a lane; fewer rows and columns than any tile.
_SAME = {"stride": (1, 1), "padding": (0, 0)}
_ODD: dict[Operator, tuple[dict[str, Any], ...]] = {
    LINEAR: (
        {"x": (37, 45), "weight": (51, 45), "bias": (51,), "residual": True, "act": "gelu"},
        {"x": (200, 128), "weight": (136, 128), "act": "relu"},
        {"x": (1, 24), "weight": (8, 24), "bias": (8,), "residual": True, "act": "silu"},
    ),
    CONV2D: (
        {"x": (2, 5, 13, 11), "weight": (7, 5, 3, 3), "bias": (7,), "residual": True, "act": "gelu", "groups": 1}
        | {"stride": (2, 2), "padding": (1, 1)},
        {"x": (2, 64, 14, 14), "weight": (72, 64, 5, 5), "act": "relu", "groups": 1}
        | {"stride": (1, 1), "padding": (2, 2)},
        {"x": (1, 24, 7, 7), "weight": (8, 24, 1, 1), "bias": (8,), "residual": True, "act": "relu6", "groups": 1}
        | _SAME,
    ),
    DEPTHWISE_POINTWISE: (
        {"x": (2, 13, 11, 9), "w_dw": (13, 1, 7, 7), "b_dw": (13,), "w_pw": (21, 13, 1, 1), "b_pw": (21,)}
        | {"residual": True, "act": "gelu", "stride": (1, 1), "padding": (3, 3)},
        {"x": (2, 64, 14, 14), "w_dw": (64, 1, 7, 7), "w_pw": (72, 64, 1, 1)}
        | {"act": "none", "stride": (1, 1), "padding": (3, 3)},
        {"x": (1, 24, 9, 9), "w_dw": (24, 1, 3, 3), "b_dw": (24,), "w_pw": (8, 24, 1, 1), "b_pw": (8,)}
        | {"act": "relu6", "stride": (2, 2), "padding": (1, 1)},
    ),
    DUAL_LINEAR: (
        {"x": (37, 45), "a": (37, 23), "w_x": (51, 45), "w_a": (51, 23), "bias": (51,), "act": "gelu"},
        {"x": (200, 128), "a": (200, 64), "w_x": (136, 128), "w_a": (136, 64), "act": "relu"},
        {"x": (1, 24), "a": (1, 40), "w_x": (8, 24), "w_a": (8, 40), "bias": (8,), "act": "none"},
    ),
    LAYER_NORM: (
        {"x": (37, 45), "weight": (45,), "bias": (45,), "eps": 1e-6},
        {"x": (200, 1032), "bias": (1032,), "eps": 1e-5},
        {"x": (1, 24), "eps": 1e-3},
    ),
    ADD_LAYER_NORM: (
        {"x": (37, 45), "residual": (37, 45), "weight": (45,), "bias": (45,), "eps": 1e-6},
        {"x": (200, 128), "residual": (200, 128), "bias": (128,), "eps": 1e-5},
    ),
    NORM_LINEAR: (
        {"x": (37, 45), "weight": (51, 45), "bias": (51,), "eps": 1e-6, "act": "gelu"},
        {"x": (200, 128), "weight": (136, 128), "eps": 1e-5, "act": "relu"},
        {"x": (1, 24), "weight": (8, 24), "bias": (8,), "eps": 1e-3, "act": "none"},
    ),
    MLP: (
        {"x": (37, 45), "w1": (75, 45), "b1": (75,), "w2": (51, 75), "b2": (51,)}
        | {"residual": True, "act": "gelu", "eps": 1e-5},
        {"x": (200, 96), "w1": (136, 96), "w2": (88, 136), "act": "relu", "eps": 0.0},
    ),
    INVERTED_RESIDUAL: (
        {"x": (2, 13, 11, 9), "w_pw": (37, 13, 1, 1), "b_pw": (37,), "w_dw": (37, 1, 3, 3), "b_dw": (37,)}
        | {"w_pwl": (21, 37, 1, 1), "b_pwl": (21,), "residual": True, "act": "silu"}
        | {"stride": (1, 1), "padding": (1, 1)},
        {"x": (2, 32, 15, 14), "w_pw": (72, 32, 1, 1), "w_dw": (72, 1, 3, 3), "w_pwl": (24, 72, 1, 1)}
        | {"act": "relu6", "stride": (2, 2), "padding": (1, 1)},
    ),
    CONV2D_MAX_POOL: (
        {
            "x": (2, 3, 37, 232),
            "weight": (72, 3, 7, 7),
            "bias": (72,),
            "act": "relu6",
            "stride": (2, 2),
            "padding": (3, 3),
        }
        | {"window": (3, 3), "pool_stride": (2, 2), "pool_padding": (1, 1)},
    ),
}
ODD = tuple(_ODD)  # operators that have odd problems


def odd_problems(operator: Operator, dtype: torch.dtype, device: torch.device) -> list[Problem]:
    """Small problems of one operator that cross the borders of tiles."""
    return [Problem.make(operator, dtype, device.type, **values) for values in _ODD[operator]]


def square(size: int) -> Problem:
    """A product of two square float16 matrices."""
    return Problem.make(LINEAR, torch.float16, x=(size, size), weight=(size, size), act="none")


def has_bound(problem: Problem) -> bool:
    """Whether a GPU must reach its bound of the memory's bandwidth: ConvNeXt's merged block."""
    return problem.operator is DEPTHWISE_POINTWISE


def projected_problems(dtypes: Sequence[torch.dtype] = DTYPES, models: Sequence[str] = PROJECTED) -> list[Problem]:
    """The frozen problems that are projected, unpruned and with every block merged."""
    return [
        problem
        for dtype in dtypes
        for problem, _ in frozen_problems(models, PROJECTED_BATCH, dtype, "cpu", variants=("P0", "all"))
        if lacks_kernel(problem) is None
    ]


def frozen_problems(
    models: Sequence[str],
    batch: int,
    dtype: torch.dtype,
    device: str,
    variants: Sequence[str] = VARIANTS,
) -> Iterator[tuple[Problem, Met]]:
    """The problems that these models' variants meet at a batch size, each once."""
    for problem, met in frozen():
        if any(variant in met.get(model, {}) for model in models for variant in variants):
            inputs = tuple(None if shape is None else (shape[0] * batch, *shape[1:]) for shape in problem.inputs)
            yield replace(problem, inputs=inputs, dtype=dtype, device=device), met


def find_problems(name: str) -> dict[Problem, dict[str, int]]:
    """What one model meets at batch 1, found by running it: how often by variant."""
    model = timm.create_model(name).eval()
    names = prunable_blocks(model)
    found: dict[Problem, dict[str, int]] = {}
    for variant, chosen in zip(VARIANTS, ([], names[::2], names), strict=True):
        problems = model_problems(_merged(model, chosen), (3, 224, 224), 1, torch.float32)
        for problem, count in _with_parts(problems).items():
            found.setdefault(problem, {})[variant] = count
    return found


def _with_parts(problems: Mapping[Problem, int]) -> dict[Problem, int]:
    """`problems`, and those of the separate operators that they stand for, which are their other plan."""
    found = Counter(problems)
    for problem, count in problems.items():
        found.update(dict.fromkeys(part_problems(problem), count))
    return dict(found)


def freeze() -> int:
    """Write ``frozen.json`` from the models; returns how many problems there are."""
    met: dict[Problem, Met] = {}
    for model in MODELS:
        for problem, counts in find_problems(model).items():
            met.setdefault(problem, {})[model] = counts
    lines = [json.dumps(_record(problem) | {"met": by_model}) for problem, by_model in met.items()]
    write_text(PATH, "[\n" + ",\n".join(lines) + "\n]\n")
    return len(met)


def _merged(model: nn.Module, names: list[str]) -> nn.Module:
    if not names:
        return model
    subnet = make_progressive(model, names)
    set_lambda(subnet, 1.0)
    return merge_model(subnet)


def _record(problem: Problem) -> dict[str, Any]:
    operator = problem.operator
    return {
        "operator": operator.name,
        "shapes": {n: problem.shape(n) for n in (*operator.inputs, *operator.weights) if problem.has(n)},
        "attributes": dict(zip(operator.attributes, problem.attributes, strict=True)),
    }
