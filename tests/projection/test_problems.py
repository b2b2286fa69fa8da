"""What a model runs on an MI100. That the frozen problems are the models' is tested beside the benchmarks."""

from __future__ import annotations

import timm
import torch
from torch import nn

from updp_rt.blocks import make_progressive, merge_model, set_lambda
from updp_rt.projection.problems import model_problems, run_of, unfused_passes

SIZE = (3, 96, 96)


def vit() -> nn.Module:
    return timm.create_model("test_vit", img_size=96).eval()


def test_a_batch_multiplies_images_and_rows() -> None:
    one, five = (model_problems(vit(), SIZE, batch, torch.float16) for batch in (1, 5))
    assert [problem.x[0] for problem in five] == [5 * problem.x[0] for problem in one]
    assert list(five.values()) == list(one.values())
    assert {problem.dtype for problem in five} == {torch.float16}


def test_problems_stand_where_they_run_with_folds_worked_in() -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 8, 8), num_classes=5).eval()
    run = run_of(model, SIZE, 2, torch.float32)
    places = [place for place, _ in run.problems]
    assert places[0] == "", "the stem is the model's own"
    assert {"layer1.0", "layer4.0", "layer4.0.downsample", "fc"} < set(places)
    convolutions = [problem for _, problem in run.problems if problem.operator.name == "conv2d"]
    assert all(problem.has("bias") for problem in convolutions), "a norm folded into a convolution gives it a bias"
    assert model.conv1.weight.dtype == torch.float32
    assert not any(hasattr(module, "_updp_rt_fusion") for module in model.modules())


def test_a_merged_block_stands_for_what_it_replaces() -> None:
    subnet = make_progressive(vit(), ["blocks.1"])
    set_lambda(subnet, 1.0)
    run = run_of(merge_model(subnet), SIZE, 1, torch.float16)
    operators = {place: problem.operator.name for place, problem in run.problems if place.startswith("blocks.")}
    assert operators["blocks.1"] == "dual_linear"


def test_what_runs_between_the_fused_operators_is_left_with_a_reason() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.norm = nn.GroupNorm(2, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.norm(self.conv(x)).transpose(2, 3)

    run = run_of(Doubled().eval(), (3, 8, 8), 1, torch.float32)
    assert [problem.operator.name for _, problem in run.problems] == ["conv2d"]
    found = {(place, one.name, why) for place, one, why in run.left}
    assert ("norm", "native_group_norm", "no rule fuses GroupNorm") in found
    assert ("", "mul", "no rule fuses Doubled") in found


def test_an_input_that_lies_otherwise_is_copied_first() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    run = run_of(Turned().eval(), (3, 8, 8), 2, torch.float16)
    ((place, one, why),) = run.left
    assert (place, one.name, one.bytes) == ("second", "copy", 2 * 2 * (2 * 8 * 6 * 6))
    assert "linear lies otherwise" in why


def test_the_unfused_model_is_what_torch_runs_pass_by_pass() -> None:
    passes = unfused_passes(vit(), SIZE, 4, torch.float16)
    names = [one.name for one in passes]
    depth = 6
    assert names.count("native_layer_norm") == 2 * depth + 1
    assert names.count("gelu") == depth
    assert names.count("bmm") == 2 * depth, "attention runs as two products with its scores in memory"
    assert not {"view", "permute", "transpose", "empty"} & set(names)
