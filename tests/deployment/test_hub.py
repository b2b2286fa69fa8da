"""The Hub's layout: what is written comes back bit for bit, by us and by timm, and the card tells what is known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import yaml
from safetensors import safe_open

import updp_rt
import updp_rt.timm
from tests.deployment.conftest import SIZE, small_resnet
from tests.deployment.test_timm import narrow_resnet
from tests.marks import slow
from tests.report.conftest import whole_run
from updp_rt.artifacts import ArtifactError

IMAGES = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module", params=[small_resnet, slow(narrow_resnet)], ids=lambda make: make.__name__)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model and its folder."""
    model = request.param()
    folder = tmp_path_factory.mktemp("hub") / "small_p8"
    return model, updp_rt.save_pretrained(model, folder, accuracy=0.75, license="apache-2.0")


def front_matter(folder: Path) -> tuple[dict[str, Any], str]:
    found = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1]), found[2]


@torch.no_grad()
def test_it_comes_back_bit_for_bit(written: Any) -> None:
    model, folder = written
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    wanted = model(IMAGES)
    assert torch.equal(updp_rt.from_pretrained(folder)(IMAGES), wanted)
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(by_timm(IMAGES), wanted)
    updp_rt.load(updp_rt.save(by_timm, folder.parent / "saved"))
    fresh = timm.create_model(f"local-dir:{folder}")
    assert not torch.equal(fresh.eval()(IMAGES), wanted)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(IMAGES).shape == (2, 3)


def test_timm_s_own_loader_reads_the_configuration(written: Any) -> None:
    _, folder = written
    given = timm.models.resolve_model_input_args(f"local-dir:{folder}", {}, pretrained=True)
    assert tuple(given["pretrained_cfg"]["mean"]) == timm.create_model(**given).pretrained_cfg["mean"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_card_says_what_is_known(written: Any) -> None:
    model, folder = written
    data, text = front_matter(folder)
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-classification"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert text.startswith(f"# small_p8\n\ntimm's `{model.pretrained_cfg['architecture']}`, ")
    assert "Accuracy: 75.00%." in text
    assert "How it was checked" not in text
    (folder / "README.md").write_text("mine")
    updp_rt.save_pretrained(model, folder)
    assert (folder / "README.md").read_text() == "mine"


def test_a_snapshot_in_the_cache_is_found_offline(written: Any, tmp_path: Path) -> None:
    model, folder = written
    repository = tmp_path / "models--someone--small_p8"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((folder / name).read_bytes())
    with torch.no_grad():
        again = updp_rt.from_pretrained("someone/small_p8", cache_dir=str(tmp_path))
        assert torch.equal(again(IMAGES), model(IMAGES))
    with pytest.raises(ArtifactError, match="someone/other: no such folder, and not from the Hub either"):
        updp_rt.from_pretrained("someone/other", cache_dir=str(tmp_path))


def test_what_is_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    class Api:
        def __init__(self, **options: Any) -> None:
            pushed.update(options)

        def create_repo(self, name: str, **options: Any) -> Any:
            return SimpleNamespace(repo_id=f"someone/{name}")

        def file_exists(self, name: str, file: str, **options: Any) -> bool:
            return False

        def upload_folder(self, folder_path: str, **options: Any) -> Any:
            pushed.update(options, files={path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return SimpleNamespace(commit_url="https://…")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert updp_rt.push_to_hub(small_resnet(), "small_p8", token="secret") == "https://…"
    assert pushed["repo_id"] == "someone/small_p8"
    assert pushed["token"] == "secret"
    assert sorted(pushed["files"]) == ["README.md", "config.json", "model.safetensors"]
    assert not [name for name, content in pushed["files"].items() if b"secret" in content]


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def of_timm(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))


def hostile(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["description"]["model_args"] = {"checkpoint_path": "/etc/passwd"}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (break_weights, "model.safetensors: truncated or altered"),
        (of_timm, "not of a model that updp_rt wrote"),
        (hostile, "checkpoint_path: not an argument that is saved"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(
    damage: Callable[[Path], None], why: str, written: Any, tmp_path: Path
) -> None:
    _, folder = written
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=why):
        updp_rt.from_pretrained(tmp_path)


@pytest.mark.slow
def test_the_card_of_a_run(tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "run")
    model = updp_rt.load(whole / "merged")
    updp_rt.save_pretrained(model, tmp_path / "hub", made_in=whole, name="someone/small_p2")
    summary = json.loads((whole / "summary.json").read_text())
    data, text = front_matter(tmp_path / "hub")
    value = data["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert value == pytest.approx(summary["merged"]["accuracy"], abs=1e-6)
    assert text.startswith("# small_p2\n")
    for row in ("baseline", "merged"):
        assert f"{summary[row]['latency_ms']:.2f} ms" in text
    assert "Certificate (" in text
    assert "fused modules and the logits: PASSED" in text
    assert "On fused kernels" in text
    for block in summary["blocks"]:
        assert f"| `{block}` |" in text
    assert "num_pruned" in text
    with pytest.raises(ArtifactError, match="and the model is a resnet10t"):
        updp_rt.save_pretrained(small_resnet(), tmp_path / "other", made_in=whole)
