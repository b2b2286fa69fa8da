"""The first `accelerate` on an MI100: nothing is compiled, Triton's kernels run by our launcher. On the stand-in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import triton
from torch import Tensor, nn

import updp_rt
from tests.runtime.conftest import MODELS, model_and_images
from tests.runtime.test_accelerate import assert_as_good_as
from tests.runtime.test_emulated_mi100 import chosen, has_hip_kernel
from updp_rt.kernels import hip
from updp_rt.kernels.hip import compilers
from updp_rt.kernels.triton.objects import carried
from updp_rt.runtime import dispatch


def _convnext() -> nn.Module:
    """Its channels fill tiles where those of ConvNeXt-T do."""
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (32, 64, 96, 128), "num_classes": 7}
    return timm.create_model("convnext_atto", conv_mlp=False, **sizes)


@pytest.fixture
def mi100(monkeypatch: pytest.MonkeyPatch) -> Iterator[hip.EmulatedMI100]:
    """An emulated MI100 on which Triton's kernels are the fastest, in a process in which nothing may be compiled."""

    def times(calls: Mapping[str, Callable[[], Tensor]], **_: object) -> dict[str, float]:
        return {name: 1e-3 if name.startswith("triton") else 1.0 for name in calls}

    monkeypatch.setattr(dispatch, "time_side_by_side", times)
    monkeypatch.setattr(triton, "compile", lambda *_, **__: pytest.fail("Triton compiled"))
    monkeypatch.setattr(compilers.Compiler, "compile", lambda *_: pytest.fail("a HIP kernel was compiled"))
    monkeypatch.setitem(MODELS, "convnext", _convnext)
    assert carried("gfx908"), "run: updp-rt kernels build --arch gfx908"
    with hip.emulated_mi100() as device:
        assert isinstance(device, hip.EmulatedMI100)
        yield device


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2-merged", "convnext", "vit-merged"])
def test_no_launch_of_the_four_families_compiles(name: str, mi100: hip.EmulatedMI100) -> None:
    model, images = model_and_images(name, batch=1, dtype=torch.float16)
    fast = updp_rt.accelerate(model, images, backends=("triton", "reference"), strict=True)
    assert_as_good_as(fast, model, images)
    kernels = chosen(fast)
    ours = {p for p, kernel in kernels.items() if kernel.startswith("triton:") or kernel == "separate"}
    assert ours == set(filter(has_hip_kernel, kernels))


class Launches:
    """Of what an emulated MI100 is given and does not execute: how many for each problem that is chosen for.

    Every candidate passes its check, and is called once to be measured; of those, `measured` are the problem's own.
    """

    def __init__(self, mi100: hip.EmulatedMI100, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        self.measured: dict[str, list[str]] = {}
        self.ranked: dict[str, list[str]] = {}
        self._at = "the model's own run"
        self._choose = dispatch._Chooser.choose
        monkeypatch.setattr(mi100, "queue", lambda *_, **__: self.count.update([self._at]))
        monkeypatch.setattr(dispatch, "accuracy", lambda *_: SimpleNamespace(passed=True, compared=True))
        monkeypatch.setattr(dispatch, "time_side_by_side", self._measure)

        def choose(chooser: Any) -> Any:
            return self._count(chooser)

        monkeypatch.setattr(dispatch._Chooser, "choose", choose)

    def _count(self, chooser: Any) -> Any:
        before, self._at = self._at, chooser.problem.key
        self.ranked[self._at] = chooser.ranked
        chosen = self._choose(chooser)
        self._at = before
        return chosen

    def _measure(self, calls: Mapping[str, Callable[[], Tensor]], **_: object) -> dict[str, float]:
        self.measured[self._at] = list(calls)
        for call in calls.values():
            call()
        return {name: 1.0 + i for i, name in enumerate(calls)}


@pytest.mark.parametrize("name", ["resnet34", "mobilenetv2_100", "convnext_tiny", "deit_tiny_patch16_224"])
@pytest.mark.parametrize("measure", [True, False])
def test_the_first_accelerate_of_a_whole_model(
    name: str, measure: bool, mi100: hip.EmulatedMI100, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each shape three candidates at most are checked and measured, the projected best first; nothing compiles."""
    launches = Launches(mi100, monkeypatch)
    model, image = timm.create_model(name).eval().half(), torch.randn(1, 3, 224, 224).half()
    fast = updp_rt.accelerate(model, image, measure=measure)
    problems = [problem for problem in launches.ranked if has_hip_kernel(problem)]
    assert len(problems) > 5
    assert len(chosen(fast).keys() & set(problems)) > 5
    for problem in problems:
        best = launches.ranked[problem]
        if measure:
            measured = launches.measured[problem]
            assert len(measured) <= 3
            assert measured[:2] == best[:2]
            # Separate operators launch what each of them was chosen among.
            assert "separate" in measured or launches.count[problem] <= 2 * len(measured)
        else:
            assert best[0] == "separate" or launches.count[problem] == 1
        # Others are the model's own, or those of separate operators.
        assert chosen(fast).get(problem, best[0]) == best[0]
    assert launches.measured.keys() <= (launches.ranked.keys() if measure else set())


def test_a_ranked_shape_takes_three_launches_and_one_without_measuring(
    mi100: hip.EmulatedMI100, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each candidate's check, and the model's own run."""
    launches: Counter[str] = Counter()
    queue = mi100.queue
    monkeypatch.setattr(mi100, "queue", lambda *a, **kw: (launches.update(["all"]), queue(*a, **kw)))
    layer, x = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.ReLU6()).eval().half(), torch.randn(1, 24, 28, 28)
    ranked = ["triton:128x32x32w4s2", "hip:64x64x32w4", "triton:64x64x32w4s2"]
    monkeypatch.setattr(dispatch, "ranking", lambda problem, device: ranked)

    def launched(**options: Any) -> int:
        dispatch._checked.clear()
        launches.clear()
        fast = updp_rt.accelerate(layer, x.half(), **options)
        assert chosen(fast) == {next(iter(chosen(fast))): ranked[0]}
        return launches["all"]

    assert launched(measure=False) == 2
    assert launched() == 3
    assert launched() == 2, "the table knows it"


def test_what_fits_no_kernel_compiled_ahead_is_not_run_by_one(
    mi100: hip.EmulatedMI100, caplog: pytest.LogCaptureFixture
) -> None:
    """A tensor off its 16 bytes: a GPU's Triton would compile for it."""
    layer = nn.Sequential(nn.Linear(64, 64)).eval().half()
    x = torch.randn(8 * 64 + 1).half()[1:].view(8, 64)
    assert x.data_ptr() % 16
    fast = updp_rt.accelerate(layer, x, backends=("triton", "reference"))
    assert set(chosen(fast).values()) == {"reference"}
    assert "no linear_kernel compiled ahead fits this launch" in caplog.text
