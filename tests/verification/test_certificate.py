"""Certificates: right models pass, wrong kernels are named, and a file says no more than its figures."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.marks import slow
from tests.runtime.changes import fused_adamw, load, scaled
from tests.runtime.conftest import MODELS, model_and_images
from tests.runtime.small import twins
from updp_rt.artifacts import ArtifactError
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.site import Site
from updp_rt.verification import Case, Certificate
from updp_rt.verification.adversarial import adversarial, neighbours
from updp_rt.verification.judge import BINS, histogram, judge, judge_logits

pytestmark = pytest.mark.usefixtures("own_table")

FEW = ("resnet18-merged", "mobilenetv2-merged", "convnext-merged", "vit-merged")
KINDS = {"seen", "large", "denormal", "constant", "one-hot", "border"}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in FEW]
    + [slow(name, torch.float32) for name in MODELS if name not in FEW]
    + [
        slow(name, torch.bfloat16)
        for name in ("resnet18-merged", "mobilenetv2", "mobilenetv2-merged", "convnext", "vit")
    ],
)
def test_every_family_is_certified(name: str, dtype: torch.dtype) -> None:
    model, images = model_and_images(name, dtype=dtype)
    fast = updp_rt.accelerate(model, images)
    certificate = updp_rt.verify(model, fast, images)
    assert certificate.passed, (certificate.failed, certificate.worst())
    wholes = [(name, fusion) for name, _, fusion in fused_modules(fast)]
    blocks = {name for name, fusion in wholes if fusion.rule.method == "forward"}
    # Of a model's own layers each operator counts for itself.
    layers = {site for _, fusion in wholes for site in fusion.sites if fusion.rule.method != "forward"}
    assert sorted(module.name for module in certificate.modules) == sorted(blocks | layers)
    assert not certificate.unreached
    assert any(module.kernels for module in certificate.modules)
    for module in certificate.modules:
        # A pooled vector has no border; every other kind is there.
        assert {case.inputs for case in module.cases} >= KINDS - {"border"}
        assert all(sum(case.ulps.values()) for case in module.cases)
    assert certificate.logits.samples == len(images)


@pytest.mark.slow
def test_a_healthy_model_is_certified_whatever_the_adversarial_inputs() -> None:
    """Behind a clamp, large inputs leave a few values that do not saturate, and how wrong those are is luck."""
    model, images = model_and_images("mobilenetv2")
    fast = updp_rt.accelerate(model, images)
    assert all(updp_rt.verify(model, fast, images, seed=seed).passed for seed in range(2, 5))


def test_a_healthy_model_is_certified_whose_folded_weights_are_rounded() -> None:
    """All pixels alike are off then, so a gate behind a mean over them is too; rounding of inputs averages out."""
    model, images = model_and_images("seresnet18", dtype=torch.bfloat16)
    images = torch.randn(images.shape, generator=torch.Generator().manual_seed(11)).bfloat16()
    fast = updp_rt.accelerate(model, images, backends=["onednn", "vendor"])
    certificate = updp_rt.verify(model, fast, images, seed=1)
    assert certificate.passed, certificate.worst()


class _Wrong:
    """A site whose results are changed by `mistake`, which gets the input and the right result."""

    def __init__(self, site: Site, mistake: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.site, self.mistake = site, mistake

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.mistake(inputs[0], self.site(*inputs))

    def __getattr__(self, name: str) -> object:
        return getattr(self.site, name)


def _off_at_the_corner(x: Tensor, y: Tensor) -> Tensor:
    y = y.clone()
    y[..., 0, -1] += 0.05
    return y


def _saturating(x: Tensor, y: Tensor) -> Tensor:
    return y.clamp(-100, 100)


def _flat_is_zero(x: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(y) if bool((x == x.flatten()[0]).all()) else y


def _nan_where_tiny(x: Tensor, y: Tensor) -> Tensor:
    return torch.full_like(y, torch.nan) if x.abs().max() < 1e-30 else y


@pytest.mark.parametrize(
    ("site", "mistake", "kinds"),
    [
        slow("conv2", _off_at_the_corner, {"seen", "border"}),
        slow("conv2", _saturating, {"large"}),
        ("conv1", _flat_is_zero, {"constant"}),
        ("conv1", _nan_where_tiny, {"denormal"}),
    ],
)
def test_a_wrong_kernel_is_found_and_its_module_named(
    site: str, mistake: Callable[[Tensor, Tensor], Tensor], kinds: set[str]
) -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    sites = {name: fusion for name, _, fusion in fused_modules(fast)}["layer3.1"].sites
    sites[site] = _Wrong(sites[site], mistake)
    certificate = updp_rt.verify(model, fast, images)
    assert not certificate.passed
    assert [name for name in certificate.failed if name != "logits"] == ["layer3.1"]
    (module,) = (module for module in certificate.modules if module.name == "layer3.1")
    assert kinds <= {case.inputs for case in module.cases if not case.passed}
    assert certificate.worst()[0] == "layer3.1"
    assert "FAILED: layer3.1" in str(certificate)


def test_a_write_that_packed_weights_cannot_see_is_found() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    for each in (model, fast):
        each.get_submodule("layer2.1.conv1").weight.data[0] += 1
    assert "layer2.1" in updp_rt.verify(model, fast, images).failed


def test_accelerate_refuses_to_hand_out_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_and_images("resnet18")
    assert updp_rt.verify(model, updp_rt.accelerate(model, images, certify=True), images).passed
    run = Site.__call__
    # What the check at the first use cannot see: values of ordinary size are right.
    monkeypatch.setattr(Site, "__call__", lambda self, *inputs: run(self, *inputs).clamp(max=300.0))
    with pytest.raises(updp_rt.VerificationError, match=r"not equivalent to its source: .*large inputs") as caught:
        updp_rt.accelerate(model, images, inplace=True, certify=True)
    assert caught.value.certificate.failed
    assert not list(fused_modules(model))


def test_kernels_are_those_of_the_shape_certified() -> None:
    model, images = model_and_images("mobilenetv2")
    fast = updp_rt.accelerate(model, [images, images[:1]])
    before = {row.problem for row in updp_rt.explain(fast).rows}
    certificate = updp_rt.verify(model, fast, images[:1])
    problems = {kernel.problem for module in certificate.modules for kernel in module.kernels}
    assert problems
    assert all(problem.split()[1].startswith("1x") for problem in problems)
    assert {row.problem for row in updp_rt.explain(fast).rows} == before > problems
    assert {k.kernel.partition(":")[0] for m in certificate.modules for k in m.kernels} == set(certificate.sources)


def test_kernels_of_weights_that_have_changed_are_named_too() -> None:
    """Weights are packed again in the very call that is looked at: after a step, and in another tensor."""
    source, fast, images = twins()
    before = [len(module.kernels) for module in updp_rt.verify(source, fast, images).modules]
    for change in (fused_adamw, load, lambda model, _: model.load_state_dict(scaled(model, 1.1), assign=True)):
        change(fast, images)
        certificate = updp_rt.verify(updp_rt.restore(fast), fast, images)
        assert certificate.passed
        assert [len(module.kernels) for module in certificate.modules] == before
        assert certificate.sources


def test_modules_beside_a_fused_one_count_with_it() -> None:
    model, images = model_and_images("resnet18")
    certificate = updp_rt.verify(model, updp_rt.accelerate(model, images), images)
    assert certificate.modules[0].name == "conv1"
    assert certificate.modules[0].replaces == ["bn1", "act1"]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_every_output_of_a_model_with_several_is_compared(wrong: bool) -> None:
    model = timm.create_model("test_resnet", features_only=True).eval()
    images = torch.randn(1, 3, 32, 32)
    fast = updp_rt.accelerate(model, images, certify=True)
    if wrong:  # behind all fused modules
        fast.register_forward_hook(lambda module, args, features: [*features[:2], features[2] + 0.1, *features[3:]])
    certificate = updp_rt.verify(model, fast, images)
    assert certificate.failed == (["logits"] if wrong else [])
    assert certificate.reference == "float64"


def test_a_model_without_numbers_to_compare_is_refused_and_a_single_one_is_compared() -> None:
    class Outputs(nn.Module):
        def __init__(self, outputs: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.layer, self.outputs = nn.Linear(5, 3), outputs

        def forward(self, x: Tensor) -> object:
            return self.outputs(self.layer(x))

    x = torch.randn(2, 5)
    for outputs in (lambda y: {"logits": y, "mean": y.mean()}, lambda y: y.argmax(-1)):
        model = Outputs(outputs).eval()
        fast = updp_rt.accelerate(model, x)
        if isinstance(model(x), dict):
            assert updp_rt.verify(model, fast, x).passed
            continue
        with pytest.raises(ValueError, match=r"this .*Outputs gives no floating numbers to compare"):
            updp_rt.verify(model, fast, x)


def test_what_cannot_be_compared_is_refused() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    with pytest.raises(ValueError, match="nothing is fused in the second model"):
        updp_rt.verify(model, model, images)
    with pytest.raises(ValueError, match="the first model is accelerated too"):
        updp_rt.verify(fast, fast, images)
    with pytest.raises(ValueError, match=r"inputs of \(0, 3, 40, 40\) hold no image, .* give at least one"):
        updp_rt.verify(model, fast, images[:0])
    with pytest.raises(ValueError, match="verified as they serve"):
        updp_rt.verify(model.train(), fast, images)
    model.eval().fc.bias.data[0] += 1
    with pytest.raises(ValueError, match="different weights"):
        updp_rt.verify(model, fast, images)


@pytest.fixture
def certificate() -> Certificate:
    model, images = model_and_images("vit")
    return updp_rt.verify(model, updp_rt.accelerate(model, images), images, source="given by a test")


def test_a_certificate_survives_its_file(certificate: Certificate, tmp_path: Path) -> None:
    path = certificate.save(tmp_path / "certificate.json")
    assert Certificate.load(path) == certificate
    data = json.loads(path.read_text())
    assert data["passed"] is True
    assert data["failed"] == []
    assert data["inputs"]["source"] == "given by a test"


def test_the_figures_decide_whatever_the_file_claims(certificate: Certificate, tmp_path: Path) -> None:
    path = certificate.save(tmp_path / "certificate.json")
    data = json.loads(path.read_text())
    for error in (1e3, "NaN", "Infinity"):
        data["modules"][1]["cases"][0]["error"] = error
        path.write_text(json.dumps(data))
        read = Certificate.load(path)
        assert read.failed == [data["modules"][1]["name"]]
        assert read.worst()[0] == data["modules"][1]["name"]
        assert json.loads(read.model_dump_json())["passed"] is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not a certificate of updp_rt, or damaged"),
        ("[]", "not a certificate of updp_rt, or damaged"),
        ('{"format": "other"}', "not a certificate of updp_rt, or damaged"),
    ],
)
def test_a_damaged_certificate_is_one_clear_error(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=message):
        Certificate.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_units_in_the_last_place(dtype: torch.dtype) -> None:
    exact = torch.tensor([1.0, -1.0, 0.0, 3.0, 2.0, torch.inf], dtype=torch.float64)
    found = exact.to(dtype)
    found[1] = torch.nextafter(found[1], torch.tensor(-2.0, dtype=dtype))
    found[2] = torch.nextafter(found[2], torch.tensor(-1.0, dtype=dtype))  # across zero, one away
    for _ in range(3):
        found[3] = torch.nextafter(found[3], torch.tensor(9.0, dtype=dtype))
    found[4] = torch.nan
    assert histogram(found, exact) == dict(zip(BINS, (2, 2, 0, 1, 0, 0, 1), strict=True))
    assert histogram(torch.tensor([-0.0], dtype=dtype), torch.zeros(1, dtype=torch.float64))["0"] == 1


def test_the_bound_is_twice_torchs_error_and_a_rounding_of_the_sum() -> None:
    exact = torch.full((1, 1, 3, 3), 2.0, dtype=torch.float64)
    plain = exact.float() + 1e-3
    for off, passed in ((1.9e-3, True), (2.2e-3, False), (torch.nan, False)):
        found = exact.float()
        found[0, 0, 0, 1] += off
        case = judge("seen", found, [plain], exact, length=64)
        assert case.passed == passed
        assert case.bound == pytest.approx(2 * case.torch_error + torch.finfo(torch.float32).eps * 8 * 2)
        assert case.border_error == pytest.approx(case.error, nan_ok=True)
    inside = exact.float()
    inside[0, 0, 1, 1] += 1.0
    assert judge("seen", inside, [plain], exact, 64).border_error == 0
    assert not judge("seen", exact.float()[..., :2], [plain], exact, 64).passed


def test_top_1_must_hold_where_the_margin_is_beyond_the_bound() -> None:
    exact = torch.tensor([[3.0, 1.0], [1.0, 1.0 + 1e-9], [0.0, 2.0]], dtype=torch.float64)
    plain = exact.float() + 1e-3
    found = exact.float()
    found[1] = torch.tensor([1.0 + 1e-6, 1.0])  # a tie within the bound may fall either way
    logits = judge_logits(found, plain, exact, 16)
    assert (logits.samples, logits.decided, logits.disagree, logits.passed) == (3, 2, 0, True)
    found[2] = torch.tensor([2.0, 0.0])
    logits = judge_logits(found, plain, exact, 16)
    assert (logits.disagree, logits.passed) == (1, False)


def test_what_overflows_in_torch_shows_nothing_and_hides_nothing() -> None:
    exact = torch.tensor([[3.0, 1.0], [7e4, 1.0]], dtype=torch.float64)
    plain, found = exact.half(), exact.half()
    found[1, 0] = torch.nan
    for off, passed in ((0, True), (1, False)):
        found[0, 1] = 1 + off
        assert judge("seen", found, [plain], exact, 4).passed == passed
        logits = judge_logits(found, plain, exact, 4)
        assert (logits.decided, logits.passed) == (1, passed)
    nothing = torch.full_like(found, torch.nan)
    assert not judge_logits(nothing, nothing, exact, 4).passed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_adversarial_inputs_are_what_they_are_called(dtype: torch.dtype) -> None:
    conv = nn.Conv2d(5, 7, 3, padding=1).to(dtype)
    x = torch.randn(2, 5, 6, 4).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        made = dict(adversarial((x, None), conv_of(conv)))
    assert set(made) == KINDS - {"seen"}
    for y, rest in made.values():
        assert rest is None
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert y.is_contiguous(memory_format=torch.channels_last)
    found = {kind: args[0] for kind, args in made.items()}
    with torch.no_grad():
        assert conv(found["large"]).isfinite().all()
    assert found["large"].abs().max() >= 64 * x.abs().max()
    assert 0 < found["denormal"].abs().max() < torch.finfo(dtype).smallest_normal
    assert (found["constant"] == 1).all()
    assert (found["one-hot"].flatten(1).sum(1) == 1).all()
    assert ((found["one-hot"] == 0) | (found["one-hot"] == 1)).all()
    assert (found["border"][:, :, 1:-1, 1:-1] == 0).all()
    assert torch.equal(found["border"][:, :, 0], x[:, :, 0])
    moved = neighbours((x,))[0]
    assert ((moved > x) | (moved < x)).all()
    assert (histogram(moved, x.double())["1"]) == x.numel()


def conv_of(conv: nn.Conv2d) -> Callable[..., Tensor]:
    return lambda x, rest: conv(x)


def test_a_case_without_a_number_fails() -> None:
    values = dict.fromkeys(("rms", "border_error", "torch_error", "torch_rms", "bound"), 1.0)
    assert not Case(inputs="seen", error=float("nan"), ulps={}, **values).passed


@pytest.mark.parametrize("look", [updp_rt.verify, slow(lambda source, fast, images: updp_rt.explain(fast, images))])
def test_later_calls_of_a_model_that_was_looked_at_keep_nothing(look: Callable[..., Any]) -> None:
    source, images = model_and_images("resnet18-merged")
    fast = updp_rt.accelerate(source, images)
    look(source, fast, images)

    def kept() -> int:
        gc.collect()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    with torch.inference_mode():
        fast(images)
        before = kept()
        for _ in range(3):
            fast(images)
        assert kept() == before
