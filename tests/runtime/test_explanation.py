"""What `explain` tells, the peak it measures against, the operators it may be asked of, and memory kept."""

from __future__ import annotations

import gc
import json
import platform
import weakref
from types import SimpleNamespace

import pytest
import torch

import updp_rt
from tests.runtime.conftest import model_and_images
from updp_rt.ops import ATTENTION, LINEAR, Problem
from updp_rt.runtime import bound, memory
from updp_rt.runtime.roofline import Peak, peak


def test_every_operator_is_explained() -> None:
    model, images = model_and_images("vit-merged")
    explanation = updp_rt.explain(updp_rt.accelerate(model, images))
    found = [(row.module, row.source, row.operator) for row in explanation.rows]
    block = [("blocks.0", "MergedTransformerBlock", operator) for operator in ("linear", "attention", "dual_linear")]
    other = [(name.replace("0", "1"), *rest) for name, *rest in block]
    assert sorted(found) == sorted(
        [("patch_embed.proj", "Conv2d", "conv2d"), *block, *other, ("head", "Linear", "linear")]
    )
    for row in explanation.rows:
        assert row.kernel in row.times_ms
        assert row.times_ms[row.kernel] == min(row.times_ms.values())
        assert row.roofline is not None
        assert row.roofline > 0
        assert row.refused["triton"]
    assert "norm (LayerNorm)" in explanation.unfused
    again = json.loads(json.dumps(explanation.to_dict()))
    assert [row["problem"] for row in again["rows"]] == [row.problem for row in explanation.rows]
    assert "dual_linear" in str(explanation)


def test_what_is_left_to_torch_is_counted_with_the_reason() -> None:
    model, images = model_and_images("vit-merged")
    fast = updp_rt.accelerate(model, images, backends=["reference"])
    assert updp_rt.explain(fast).left is None
    explanation = updp_rt.explain(fast, images)
    found = {(left.operator, left.source): (left.count, left.why) for left in explanation.left or ()}
    count, why = found["cat", "VisionTransformer"]
    assert count == 1
    assert "on a CPU" in why
    assert found["dual_linear", "MergedTransformerBlock"] == (2, "the only candidate")
    assert {"view", "permute", "addmm"}.isdisjoint(operator for operator, _ in found)
    total = sum(count for count, _ in found.values())
    assert f"{total} kernels are torch's own" in str(explanation)
    assert sum(left["count"] for left in explanation.to_dict()["left"]) == total


def test_where_nothing_is_left_to_torch_it_says_so() -> None:
    layer, x = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1)).eval(), torch.randn(1, 8, 4, 4)
    packed = x.to(memory_format=torch.channels_last)
    fast = updp_rt.accelerate(layer, packed, backends=["onednn"])
    explanation = updp_rt.explain(fast, packed)
    assert explanation.left == []
    assert "no kernels are torch's own" in str(explanation)
    (copied,) = updp_rt.explain(fast, x).left or ()
    assert (copied.operator, copied.source, copied.count) == ("copy", "Conv2d", 1)
    assert "conv2d lies otherwise" in copied.why


def test_times_are_of_the_candidates_that_might_run() -> None:
    model, images = model_and_images("vit-merged")
    every = updp_rt.accelerate(model, images)
    alone = updp_rt.accelerate(model, images, backends=["reference"])
    assert all(row.times_ms.keys() == {"reference"} for row in updp_rt.explain(alone).rows)
    assert all(len(row.times_ms) > 1 for row in updp_rt.explain(every).rows)


def test_shapes_met_later_are_explained_too() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    before = len(updp_rt.explain(fast).rows)
    with torch.no_grad():
        fast(images[:1])
    assert len(updp_rt.explain(fast).rows) == 2 * before


def test_shapes_of_other_models_are_not() -> None:
    """Attention has no weights by which to tell whose it is."""
    model, images = model_and_images("vit-merged")
    fast = updp_rt.accelerate(model, images)
    before = updp_rt.explain(fast).rows
    updp_rt.accelerate(model, images[:1])
    assert updp_rt.explain(fast).rows == before


def test_a_model_that_is_not_accelerated_is_an_error() -> None:
    with pytest.raises(ValueError, match="is not accelerated"):
        updp_rt.explain(model_and_images("resnet18")[0])


def test_the_roofline_is_the_longer_of_arithmetic_and_traffic() -> None:
    limits = Peak({torch.float32: 1e9}, 1e6, "assumed")
    wide = Problem.make(LINEAR, torch.float32, x=(10, 1000), weight=(1000, 1000), act="none")
    assert limits.least_seconds(wide) == pytest.approx(4 * (1000 * 1000 + 2 * 10 * 1000) / 1e6)
    assert Peak({torch.float32: 1e3}, 1e6, "assumed").least_seconds(wide) == pytest.approx(2 * 10 * 1000 * 1000 / 1e3)
    attention = Problem.make(ATTENTION, torch.float32, qkv=(2, 100, 96), heads=1)
    limits = Peak({torch.float32: 1e12}, 1e12, "assumed", exponentials=1e6)
    assert limits.least_seconds(attention) == pytest.approx(2 * 100 * 100 / 1e6)
    measured = peak(torch.device("cpu"))
    assert measured.source == "measured"
    assert measured.flops[torch.float32] > 1e9
    assert measured.bandwidth > 1e8


@torch.no_grad()
def test_operators_pack_given_weights_once_follow_them_and_let_them_go() -> None:
    weight, x = torch.randn(6, 5), torch.randn(3, 5)
    assert torch.allclose(updp_rt.ops.linear(x, weight), x @ weight.T, atol=1e-5)
    known = bound.calls_of(weight)
    updp_rt.ops.linear(x, weight)
    assert bound.calls_of(weight) is known
    assert len(known.bound) == 1
    weight.mul_(3)
    assert torch.allclose(updp_rt.ops.linear(x, weight), x @ weight.T, atol=1e-5)
    gone, number = weakref.ref(weight), id(weight)
    del weight, known
    gc.collect()
    assert gone() is None
    assert number not in bound._calls


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
@pytest.mark.parametrize(("setting", "asked"), [("", [(-3, 32 << 20), (-1, 512 << 20)]), ("system", [])])
def test_freed_memory_is_kept_unless_asked_not_to(
    setting: str, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setenv("UPDP_RT_MALLOC", setting)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *a: seen.append(a) or 1))
    assert memory.keep_freed_memory.__wrapped__() == (setting == "")
    assert seen == asked
