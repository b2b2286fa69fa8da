"""ONNX Runtime, OpenVINO and frozen Inductor as engines: the same numbers, any number of images, bfloat16 as such."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import pytest
import torch

import updp_rt
from tests.runtime.conftest import model_and_images
from updp_rt.runtime.engines import ENGINES, engine_of

ENGINE_NAMES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18-merged", "mobilenetv2", "convnext-merged")),
    ],
)
@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_an_engine_computes_what_the_source_does(
    name: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images, engine=engine)
    assert engine_of(fast) == engine
    assert updp_rt.verify(model, fast, images).passed
    for count in (1, 3):
        x = torch.randn(count, *images.shape[1:])
        with torch.inference_mode():
            assert torch.allclose(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]  # no files left behind


@pytest.mark.slow
def test_openvino_computes_bfloat16_as_such() -> None:
    model, images = model_and_images("vit", dtype=torch.bfloat16)
    supported, reason = ENGINES["openvino"].supports(model, images)
    if not supported:
        assert reason == "this CPU has no instructions for bfloat16"
        return
    fast = updp_rt.accelerate(model, images, engine="openvino")
    with torch.inference_mode():
        found = fast(images)
    assert found.dtype == torch.bfloat16
    exact = model.double()(images.double())
    assert (found - exact).abs().max() > 1e-6 * exact.abs().max()  # not float32 in disguise


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_threads_share_an_engine(engine: str) -> None:
    model, images = model_and_images("vit")
    fast = updp_rt.accelerate(model, images, engine=engine)
    inputs = [torch.randn(1 + i % 3, *images.shape[1:]) for i in range(50)]
    with torch.inference_mode():
        wanted = [fast(x) for x in inputs]
    found: list[list[torch.Tensor]] = [[], [], [], []]

    def serve(own: list[torch.Tensor]) -> None:
        with torch.inference_mode():
            own += [fast(x) for _ in range(5) for x in inputs]

    threads = [threading.Thread(target=serve, args=(own,)) for own in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own in found:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(own, wanted * 5, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2", "vit"])
def test_frozen_inductor_computes_what_the_source_does(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images, engine="inductor")
    assert engine_of(fast) == "inductor"
    assert updp_rt.verify(model, fast, images).passed


@pytest.mark.parametrize("engine", [*ENGINE_NAMES, "migraphx"])
def test_a_missing_package_is_named_with_the_command_that_mends_it(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    supported, reason = ENGINES[engine].supports(torch.nn.Identity(), torch.zeros(1, 3, 8, 8))
    assert not supported
    assert "pip install" in reason


def test_engines_say_what_they_do_not_take() -> None:
    model, images = torch.nn.Identity(), torch.zeros(1, 3, 8, 8)
    assert "cuda" in ENGINES["migraphx"].supports(model, images)[1]
    assert "float16" in ENGINES["onnxruntime"].supports(model, images.half())[1]
    assert "float16" in ENGINES["openvino"].supports(model, images.half())[1]
