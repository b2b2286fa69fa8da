"""The Triton backend under Triton's interpreter. Run with ``TRITON_INTERPRET=1``; prints what happened as JSON.

``python -m tests.backends.interpreted PART ...`` runs these parts (`PARTS`). It is a process of its own, since nothing
compiles in one that interprets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import updp_rt  # it comes first: it makes torchvision importable beside any torch build

import timm  # isort: skip
from timm.models._efficientnet_builder import decode_arch_def  # isort: skip
from timm.models.efficientnet import EfficientNet  # isort: skip
import torch  # isort: skip
from torch import Tensor, nn  # isort: skip

from tests.backends.samples import prepare, problem_of
from tests.ops.calls import ACTIVATIONS, FORMS, FULL, HIP_ALONE, WITHOUT_ACTIVATION, Call, Form
from tests.ops.test_operators import apart, backwards, expanded, offset
from updp_rt.backends import BACKENDS
from updp_rt.blocks.randomize import randomize
from updp_rt.ops import OPERATORS, accuracy
from updp_rt.runtime import dispatch
from updp_rt.runtime.fused import fused_modules

TRITON = BACKENDS["triton"]
DTYPES = (torch.float32, torch.float16)
FULLEST = [form for operator, form in FULL.items() if operator not in HIP_ALONE]


def _mobilenet() -> nn.Module:
    """MobileNetV2's kinds of block, with and without a residual, and its stem and head."""
    stages = [["ds_r1_k3_s1_c8"], ["ir_r2_k3_s2_e3_c12"], ["ir_r1_k3_s1_e6_c20"]]
    return EfficientNet(
        decode_arch_def(stages), num_features=40, stem_size=8, num_classes=7, act_layer=nn.ReLU6, fix_stem=True
    )


# Models and image sizes, small enough for an interpreter; channels are no multiples of a tile.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (
        partial(timm.create_model, "resnet18", layers=(1, 1, 1, 1), channels=(8, 12, 20, 24), num_classes=7),
        11,
    ),
    "mobilenetv2": (_mobilenet, 19),
    "convnext": (partial(timm.create_model, "test_convnext", dims=(8, 12, 20, 24), num_classes=7), 32),
    "vit": (partial(timm.create_model, "test_vit", img_size=32, embed_dim=24, depth=2, num_classes=7), 32),
}


def forms() -> Iterator[tuple[Form, Call, str]]:
    """Every form that Triton runs; dtypes, tiles and activations in turn."""
    acts, tiles, dtypes = cycle(ACTIVATIONS), cycle((0, 1, 1, 0)), cycle(DTYPES)
    for form in FORMS:
        call = replace(form, act=next(acts)).call(next(dtypes))
        problem = problem_of(call)
        if TRITON.supports(problem)[0]:
            yield form, call, TRITON.configs(problem)[next(tiles)]


def activations() -> Iterator[tuple[Form, Call, str]]:
    """Every activation of the fullest forms, tiles in turn."""
    tiles = cycle((0, 1, 1, 0))
    for form in FULLEST:
        for act in ACTIVATIONS if form.operator not in WITHOUT_ACTIVATION else ():
            call = replace(form, act=act).call(torch.float32)
            yield form, call, TRITON.configs(problem_of(call))[next(tiles)]


def wrong_results(kernels: Iterator[tuple[Form, Call, str]]) -> dict[str, Any]:
    """How many kernels were run, of which operators, and those whose result is wrong."""
    wrong: list[str] = []
    run: dict[str, int] = {}
    placings = cycle((Tensor.clone, Tensor.contiguous, backwards, apart, offset))
    for form, call, config in kernels:
        placed = next(placings)
        moved = replace(call, x=placed(call.x), other=None if call.other is None else placed(call.other))
        found = prepare(TRITON, call, config)(*moved.inputs)
        judged = accuracy(OPERATORS[call.operator], found, moved.args)
        run[call.operator] = run.get(call.operator, 0) + 1
        if not judged.passed or not found.is_contiguous(memory_format=form.layout):
            wrong.append(f"{problem_of(call).key} {config} {placed.__name__}: {judged}, strides {found.stride()}")
    return {"run": run, "wrong": wrong}


def wrong_with_weights_anywhere() -> list[str]:
    """Kernels prepared of weights and biases with gaps, transposed, offset or expanded, whose result is wrong."""
    wrong: list[str] = []
    for form in FULLEST:
        for turn in range(2):  # of those in one call each lies another way
            placings = cycle((backwards, offset, apart, expanded) if turn else (expanded, apart, backwards, offset))
            call = form.call(torch.float32)
            call = replace(call, weights=tuple(None if w is None else next(placings)(w) for w in call.weights))
            problem = problem_of(call)
            if not TRITON.supports(problem)[0]:
                continue
            try:
                found = prepare(TRITON, call, TRITON.configs(problem)[0])(*call.inputs)
            except ValueError as error:
                wrong.append(f"{problem.key} {turn}: {error}")
                continue
            judged = accuracy(OPERATORS[form.operator], found, call.args)
            if not judged.passed:
                wrong.append(f"{problem.key} {turn}: {judged}")
    return wrong


def supported() -> dict[str, list[object]]:
    """The backend's answer by dtype, for a linear layer."""
    dtypes = (*DTYPES, torch.bfloat16, torch.float64)
    return {str(dtype): list(TRITON.supports(problem_of(FULL["linear"].call(dtype)))) for dtype in dtypes}


def accelerated(make: Callable[[], nn.Module], size: int) -> dict[str, Any]:
    """A model on Triton's kernels: its error, the kernels chosen by operator, and those demoted."""
    generator = torch.Generator().manual_seed(7)
    model = make().eval().requires_grad_(False)
    randomize(model)
    x = torch.randn(1, 3, size, size, generator=generator)
    fast = updp_rt.accelerate(model, x, backends=("triton", "reference"))
    with torch.inference_mode():
        wanted, found = model(x), fast(x)
    choices = [
        choice
        for *_, fusion in fused_modules(fast)
        for site in fusion.sites.values()
        for choice in site.choices.values()
    ]
    return {
        "error": float((found - wanted).abs().max() / wanted.abs().max()),
        "spread": float(wanted.std()),
        "chosen": sorted(
            {f"{choice.problem.operator.name} by {choice.candidate.partition(':')[0]}" for choice in choices}
        ),
        "demoted": {choice.problem.key: choice.demoted for choice in choices if choice.demoted},
        "not triton": sorted(
            choice.problem.key
            for choice in choices
            if TRITON.supports(choice.problem)[0] and not choice.candidate.startswith("triton")
        ),
    }


def favour_triton(candidates: dict[str, Callable[[], Tensor]], **_: object) -> dict[str, float]:
    """In place of a clock, which would never choose what is interpreted."""
    return {name: 1.0 if name.startswith("triton") else 2.0 for name in candidates}


PARTS: dict[str, Callable[[], object]] = {
    "supported": supported,
    "forms": lambda: wrong_results(forms()),
    "activations": lambda: wrong_results(activations()),
    "weights anywhere": wrong_with_weights_anywhere,
    "models": lambda: {name: accelerated(*model) for name, model in MODELS.items()},
}


def main() -> None:
    torch.set_num_threads(1)
    dispatch.time_side_by_side = favour_triton  # type: ignore[assignment]
    print(json.dumps({part: PARTS[part]() for part in sys.argv[1:]}))


if __name__ == "__main__":
    main()
