"""The problems that a model meets. That the frozen ones are the models' is tested beside the benchmarks."""

from __future__ import annotations

import pytest
import timm
import torch

from updp_rt.projection.problems import model_problems


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
