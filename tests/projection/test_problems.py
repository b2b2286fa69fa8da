"""The problems that are projected are those that the models meet."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from benchmarks.projection_shapes import BATCH, MODELS, problems
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.projection.problems import model_problems


def merged(model: nn.Module) -> nn.Module:
    subnet = make_progressive(model, prunable_blocks(model))
    set_lambda(subnet, 1.0)
    return merge_model(subnet)


@pytest.fixture(autouse=True)
def _own_tuned_table(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_batch_multiplies_images_and_rows() -> None:
    model = timm.create_model("test_vit").eval()
    one, _ = model_problems(model, torch.randn(1, 3, 160, 160), 1, torch.float16)
    five, _ = model_problems(model, torch.randn(1, 3, 160, 160), 5, torch.float16)
    assert [problem.x[0] for problem in five] == [5 * problem.x[0] for problem in one]
    assert list(five.values()) == list(one.values())
    assert {problem.dtype for problem in five} == {torch.float16}


def test_what_stays_in_torch_is_counted() -> None:
    _, unfused = model_problems(timm.create_model("test_vit").eval(), torch.randn(1, 3, 160, 160), 1, torch.float32)
    assert unfused["LayerNorm"] > 1


@pytest.mark.parametrize("name", MODELS)
def test_the_frozen_problems_are_the_models(name: str) -> None:
    model = timm.create_model(name).eval()
    found = {
        problem
        for variant in (model, merged(model))
        for problem in model_problems(variant, torch.randn(1, 3, 224, 224), BATCH, torch.float16)[0]
        if problem.operator != "attention" and (problem.operator != "conv2d" or problem.geometry.groups == 1)
    }
    assert found == set(problems(name, torch.float16))
