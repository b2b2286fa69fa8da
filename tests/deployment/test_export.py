"""Exports: standard operators, any number of images, what the source computes, and whole files or none."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.deployment.conftest import SIZE, narrow_mobilenet, small_resnet, small_vit
from tests.marks import slow
from updp_rt.deployment import ExportError, agreement
from updp_rt.deployment import onnx as onnx_files


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet": small_resnet,
    "vit": small_vit,
    "narrow-mobilenet": narrow_mobilenet,
}
# Numbers of images that no export was compared on.
COUNTS = (3, 7)


def export(model: nn.Module, path: Path, format: str, **options: Any) -> Any:
    return updp_rt.export(model, path, format, input_size=SIZE, **options)


def run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["images"]
    assert [given.name for given in session.get_outputs()] == ["logits"]
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@torch.no_grad()
def assert_agree(run: Callable[[Tensor], Tensor], model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    exact = copy.deepcopy(model).double()
    for count in COUNTS:
        for size in sizes:
            images = torch.randn(count, SIZE[0], *size)
            wanted = exact(images.double())
            assert (run(images) - wanted).abs().max() <= 2e-5 * wanted.abs().max()


@pytest.fixture(scope="module", params=["resnet", *map(slow, ("vit", "narrow-mobilenet"))])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model and what its export to ONNX says."""
    model = MODELS[request.param]()
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return request.param, model, export(model, path, "onnx")


def test_onnx_is_standard_and_says_what_it_is(exported: Any) -> None:
    name, model, done = exported
    read = onnx.load(done.path)
    onnx.checker.check_model(read, full_check=True)
    assert {node.domain for node in read.graph.node} == {""}
    assert not read.functions
    assert [(opset.domain, opset.version) for opset in read.opset_import] == [("", done.details["opset"])]
    shape = [axis.dim_param or axis.dim_value for axis in read.graph.input[0].type.tensor_type.shape.dim]
    assert shape == list(done.input) == ["batch", 3, *((32, 32) if name == "vit" else ("height", "width"))]
    assert sum(done.details["operators"].values()) == len(read.graph.node)
    held = {entry.key: entry.value for entry in read.metadata_props}
    assert held["architecture"] == model.pretrained_cfg["architecture"]
    assert json.loads(held["preprocessing"])["mean"] == list(model.pretrained_cfg["mean"])
    assert str(Path(updp_rt.__file__).parents[1]).encode() not in done.path.read_bytes()


def test_onnx_computes_what_the_source_does(exported: Any) -> None:
    name, model, done = exported
    assert [one.shape[0] for one in done.agreements][:3] == list(agreement.COUNTS)
    assert all(0 < one.error <= one.bound for one in done.agreements)
    assert_agree(lambda x: run_onnx(done.path, x), model, [(32, 32)] if name == "vit" else [(32, 32), (40, 56)])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_program_runs_where_this_package_is_not(name: str, tmp_path: Path, run_without: Callable[[str], str]) -> None:
    model, images = MODELS[name](), torch.randn(3, *SIZE)
    done = export(model, tmp_path / "model.pt2", "pt2")
    assert_agree(torch.export.load(done.path).module(), model, [(32, 32)] if name == "vit" else [(32, 32), (40, 56)])
    np.save(tmp_path / "images.npy", images.numpy())
    code = "import numpy, torch; run = torch.export.load('model.pt2').module()\n"
    code += "y = run(torch.from_numpy(numpy.load('images.npy')))\n"
    run_without(code + "numpy.save('y.npy', y.detach().numpy())")
    with torch.no_grad():
        wanted = torch.export.load(done.path).module()(images)
    assert np.array_equal(np.load(tmp_path / "y.npy"), wanted.numpy())


def test_an_accelerated_model_is_exported_as_its_source(tmp_path: Path) -> None:
    model = tiny()
    fast = updp_rt.accelerate(model, torch.randn(1, *SIZE), measure=False)
    done = export(fast, tmp_path / "model.pt2", "pt2")
    program = torch.export.load(done.path)
    assert not [node for node in program.graph.nodes if "updp_rt" in str(node.target)]
    assert_agree(program.module(), model, [(32, 32)])


@pytest.mark.slow
def test_weights_go_beside_a_file_that_would_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(onnx_files, "LARGEST", 16)
    (tmp_path / ("model-" + 16 * "0" + ".data")).touch()
    (tmp_path / "model-other.data").touch()
    done = export(model, tmp_path / "model.onnx", "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["model.onnx", done.details["weights"], "model-other.data"]
    )
    assert_agree(lambda x: run_onnx(done.path, x), model, [(32, 32)])
    before = done.path.read_bytes()
    monkeypatch.setattr(onnx_files, "_session", lambda file: lambda x: torch.zeros(len(x), 5))
    with pytest.raises(ExportError, match="computes something else"):
        export(model, tmp_path / "model.onnx", "onnx")
    assert done.path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda x: torch.zeros(len(x), 5), "computes something else"),
        (lambda x: torch.zeros(2, 5), r"gives \[2\] results for images \[1, 3, 32, 32\]"),
        (lambda x: torch.full((len(x), 5), torch.nan), "computes something else"),
    ],
)
def test_what_is_wrong_is_not_written(run: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("before")

    class Loaded:
        def module(self) -> Any:
            return run

    monkeypatch.setattr(torch.export, "load", lambda file: Loaded())
    with pytest.raises(ExportError, match=why):
        export(tiny(), path, "pt2")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


class Branching(nn.Module):
    """What no exporter follows: which way it goes depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("model", "file", "format", "options", "why"),
    [
        (Branching(), "model.pt2", "pt2", {}, r"torch\.export cannot follow this Branching"),
        (tiny(), "model.onnx", "tflite", {}, "'tflite' is no format: there are onnx, pt2, aoti"),
        (tiny(), "model.pt", "pt2", {}, r"model\.pt: a file of format pt2 ends in \.pt2"),
        (tiny(), "model.onnx", "onnx", {"keep_kernels": True}, "onnx holds standard operators only"),
        (tiny().bfloat16(), "model.onnx", "onnx", {}, "in float32 and float16, not in torch.bfloat16"),
        (nn.ReLU(), "model.pt2", "pt2", {}, "this ReLU has no weights"),
    ],
)
def test_what_cannot_be_exported_is_one_clear_error(
    model: nn.Module, file: str, format: str, options: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=why):
        export(model, tmp_path / file, format, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_other_packages_refuse_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(self.conv(x).flatten(1))

    with pytest.raises(ExportError, match="torch cannot write this model as ONNX"):
        export(Foreign(), tmp_path / "model.onnx", "onnx")
    monkeypatch.setattr(onnx.checker, "check_model", _refuse)
    with pytest.raises(ExportError, match="ONNX's checker refuses the file: no"):
        export(tiny(), tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def _refuse(*args: Any, **options: Any) -> None:
    raise onnx.checker.ValidationError("no")


def test_what_is_not_installed_is_named_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else found(name, *rest))
    with pytest.raises(ExportError, match=r"onnx not installed .*pip install 'updp_rt\[engines\]'"):
        export(tiny(), tmp_path / "model.onnx", "onnx")


@pytest.mark.slow
def test_onnx_in_float16(tmp_path: Path) -> None:
    model = small_vit().half()
    done = export(model, tmp_path / "model.onnx", "onnx")
    assert done.dtype == "float16"
    images = torch.randn(3, *SIZE)
    with torch.no_grad():
        wanted = model.double()(images.double())
    assert (run_onnx(done.path, images.half()) - wanted).abs().max() <= 2e-2 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_openvino_computes_what_the_source_does(name: str, tmp_path: Path) -> None:
    import openvino

    model = MODELS[name]()
    done = export(model, tmp_path / "model.onnx", "onnx")
    compiled = openvino.Core().compile_model(done.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert_agree(lambda x: torch.from_numpy(compiled(x.numpy())["logits"]), model, [(32, 32)])


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("keep_kernels", [False, True])
def test_packages_of_accelerated_models(
    name: str, keep_kernels: bool, tmp_path: Path, run_without: Callable[[str], str]
) -> None:
    model = MODELS[name]()
    done = export(model, tmp_path / "model.pt2", "aoti", keep_kernels=keep_kernels)
    assert_agree(torch._inductor.aoti_load_package(str(done.path)), model, [(32, 32)])
    assert bool(done.details["kept"]) == keep_kernels
    assert ("import updp_rt" in done.needs) == keep_kernels
    if not keep_kernels:
        code = "import torch; run = torch._inductor.aoti_load_package('model.pt2')\n"
        assert run_without(code + "print(*run(torch.zeros(3, 3, 32, 32)).shape)").split() == ["3", "7"]
