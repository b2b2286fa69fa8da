"""``updp-rt verify`` as a user meets it: a certificate written, checked again, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

import updp_rt
from tests.cli.test_cli import run
from tests.runtime.conftest import merged
from updp_rt.blocks.randomize import randomize
from updp_rt.data import load_splits
from updp_rt.verification import Certificate

pytestmark = pytest.mark.usefixtures("own_table")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved merged model for 3x32x32 images of 10 classes."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    saved = tmp_path / "run" / "merged"
    saved.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")  # by which a run's folder is known
    return updp_rt.save(merged(randomize(model.eval(), seed=1)), saved, model_args={"depth": 2})


def test_a_certificate_is_written_and_checked_again(folder: Path) -> None:
    # The folder of a run stands for its merged model.
    status, out, error = run("verify", str(folder.parent), "--batch", "3", "--data", "digits", "--seed", "5")
    assert status == 0, error
    path = folder / "certificate.json"
    assert f"certificate: {path}" in out
    assert "fused modules and the logits: PASSED" in out
    certificate = Certificate.load(path)
    assert certificate.inputs.shape == (3, 3, 32, 32)
    assert certificate.inputs.source == "digits, validation"
    assert certificate.inputs.seed == 5
    assert {f"│ {module.name} " in out for module in certificate.modules} == {True}

    status, out, _ = run("verify", "--check", str(path))
    assert status == 0
    assert "since the certificate" not in out
    assert "the certificate says: passed; verified again:" in out
    status, out, _ = run("verify", "--check", str(path), "--json")
    again = json.loads(out)
    assert (status, again["passed"], again["certified"], again["changes"]) == (0, True, True, [])
    assert again["inputs"]["sha256"] == certificate.inputs.sha256


def test_images_of_the_data_set_are_the_ones_certified(folder: Path) -> None:
    run("verify", str(folder), "--batch", "2", "--data", "digits")
    val = load_splits("digits", (3, 32, 32)).val
    images = torch.stack([val[i][0] for i in range(2)])
    model = updp_rt.load(folder)
    direct = updp_rt.verify(model, updp_rt.accelerate(model, images), images)
    assert direct.inputs.sha256 == Certificate.load(folder / "certificate.json").inputs.sha256


def test_what_changed_since_is_named(folder: Path) -> None:
    run("verify", str(folder), "--batch", "2")
    path = folder / "certificate.json"
    data = json.loads(path.read_text())
    data["environment"]["torch"] = "1.0"
    data["inputs"]["sha256"] = "0" * 64
    data["modules"][0]["kernels"][0]["kernel"] = "triton:other"
    path.write_text(json.dumps(data))
    status, out, _ = run("verify", "--check", str(path))
    assert status == 0
    assert f"torch: 1.0 then, {torch.__version__} now" in out
    assert "images: random normal then, other ones" in out
    assert "problems run on another one" in out


def test_a_failing_model_ends_with_status_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from updp_rt.runtime.site import Site

    call = Site.__call__
    monkeypatch.setattr(Site, "__call__", lambda self, *inputs: call(self, *inputs).clamp(max=50.0))
    status, out, _ = run("verify", str(folder), "--batch", "2")
    assert status == 1
    assert "FAILED: " in out
    failed = Certificate.load(folder / "certificate.json").failed
    assert failed
    status, out, _ = run("verify", "--check", str(folder / "certificate.json"), "--json")
    assert (status, json.loads(out)["failed"]) == (1, failed)


def test_other_weights_are_not_checked_by_this_certificate(folder: Path, tmp_path: Path) -> None:
    run("verify", str(folder), "--batch", "2")
    other = updp_rt.load(folder)
    other.head.bias.data += 1
    updp_rt.save(other, tmp_path / "other", model_args={"depth": 2})
    status, _, error = run("verify", str(tmp_path / "other"), "--check", str(folder / "certificate.json"))
    assert status == 2
    assert "verify that model by itself" in error


@pytest.mark.slow
def test_a_timm_model_needs_no_folder_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("verify", "test_vit", "--batch", "1", "--dtype", "bfloat16", "--json")
    assert (status, json.loads(out)["dtype"]) == (0, "bfloat16")
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]
    status, _, _ = run("verify", "test_vit", "--batch", "1", "--out", "c.json")
    assert status == 0
    assert run("verify", "test_vit", "--check", "c.json")[0] == 0  # its random weights are drawn again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a model's folder, or give --check CERT, or --model NAME"),
        (("folder", "--model", "resnet18"), "name a model's folder, or give --check CERT, or --model NAME"),
        (("test_vit", "--dtype", "int8"), "--dtype takes float32, float16, bfloat16, not 'int8'"),
        (("test_vit", "--device", "tpu"), "--device takes cpu, cuda or auto, not 'tpu'"),
        (("--check", "nowhere.json"), "nowhere.json: cannot be read (No such file or directory)"),
        (("test_vit", "--data", "digits", "--batch", "9999"), "validation images: give --batch"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = run("verify", *arguments)
    assert status == 2, error
    assert message in error
    assert len(error.strip().splitlines()) == 1
