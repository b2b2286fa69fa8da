"""``updp-rt train``, and pruning from the folder that it leaves; ``--reuse``, advice, and ``inspect --latency``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import updp_rt
from tests.cli.test_cli import run
from tests.pruning.test_pipeline import table
from updp_rt.artifacts import read_manifest
from updp_rt.cli import common, models
from updp_rt.pruning import stages


@pytest.fixture(autouse=True)
def _quiet_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "measure_latency", table)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "vit"
    common_options = ("--img-size", "32", "--epochs", "2", "--lr", "2e-3", "--batch-size", "128")
    status, out, error = run("train", "test_vit", *common_options, "--out", str(folder), "--json")
    assert status == 0, error
    found = json.loads(out)
    assert found["folder"] == str(folder)
    assert found["accuracy"] == read_manifest(folder).accuracy > 0.2
    return folder


def test_a_trained_folder_is_a_saved_model(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if not path.name.startswith("model-")}
    assert names == {"manifest.json", "train.json", "history.csv", "log.txt", "run.lock"}
    manifest = read_manifest(trained)
    assert (manifest.architecture, manifest.input_size) == ("test_vit", (3, 32, 32))
    assert manifest.model_args.given()["num_classes"] == 10
    updp_rt.load(trained)


def test_the_same_training_is_not_done_twice_and_another_is_refused(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != "log.txt"}
    options = ("train", "test_vit", "--img-size", "32", "--epochs", "2", "--batch-size", "128", "--out", str(trained))
    status, out, _ = run(*options, "--lr", "2e-3")
    assert status == 0
    assert f"updp-rt prune {trained} --data digits" in out.replace("\n", "")
    status, _, error = run(*options, "--lr", "1e-3")
    assert status == 2
    assert "holds another training (lr: 0.001 now, 0.002 there); choose another folder" in error
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != "log.txt"} == before


def test_a_training_from_before_a_setting_existed_is_the_same_one(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(trained, folder)
    stored = json.loads((folder / "train.json").read_text())
    del stored["config"]["sync_batch_norm"]
    (folder / "train.json").write_text(json.dumps(stored))
    options = ("train", "test_vit", "--img-size", "32", "--epochs", "2", "--batch-size", "128", "--out", str(folder))
    status, _, error = run(*options, "--lr", "2e-3")
    assert status == 0, error
    status, _, error = run(*options, "--lr", "2e-3", "--set", "sync_batch_norm=true")
    assert status == 2
    assert "holds another training (sync_batch_norm: True now, False there)" in error


def test_a_training_that_failed_before_its_first_epoch_does_not_hold_its_folder(tmp_path: Path) -> None:
    options = ("train", "test_vit", "--img-size", "32", "--epochs", "1", "--batch-size", "512", "--out", str(tmp_path))
    status, _, error = run(*options, "--lr", "1e9")
    assert status == 2
    assert "try a smaller learning rate" in error
    status, out, error = run(*options, "--lr", "1e-3")
    assert status == 0, error
    assert "--num-pruned 3" in out, "of this model six blocks can be pruned"


SHORT = ("--batch-size", "128", "--epochs", "1", "--trials", "3", "--set", "supernet_epochs=0")


@pytest.mark.slow
def test_a_trained_folder_is_pruned_and_another_count_takes_its_supernet_over(trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "front", tmp_path / "two"
    goal = ("--max-latency", "0.9", "--out", str(first))
    assert run("prune", str(trained), *SHORT, *goal, "--stage", "supernet")[0] == 0
    status, out, error = run("prune", str(trained), *SHORT, *goal, "--stage", "search")
    assert status == 0, error
    text = " ".join(out.split())
    assert "how many blocks to prune" in text
    assert "3.50 ms" in text, "all six blocks: the fastest subnet is always among the candidates"
    assert f"--num-pruned N or --target-speedup X and --reuse {first}" in text
    status, out, error = run(
        "prune", str(trained), *SHORT, "--num-pruned", "2", "--direct", "--reuse", str(first), "--out", str(second)
    )
    assert status == 0, error
    assert (second / "supernet.safetensors").read_bytes() == (first / "supernet.safetensors").read_bytes()
    assert (second / "report.html").is_file()
    assert "on fused kernels the search predicted 1.23× for the merged model, measured" in " ".join(out.split())
    assert not list(second.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pretrained",), "or give the folder of a saved model as MODEL (and neither)"),
        (("--checkpoint", "x.pt"), "or give the folder of a saved model as MODEL (and neither)"),
        (("--img-size", "48"), "a model for images of (3, 32, 32); it takes no others"),
        (("--batch-size", "2000"), "batch_size is 2000, but there are 1078 training images: give 1078 or less"),
        (("--reuse", "nowhere"), "nowhere: not the folder of a pruning run (it has no run.json)"),
        (("--lr", "nan"), "finite number"),
    ],
)
def test_what_does_not_go_with_a_folder(
    trained: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, _, error = run("prune", str(trained), "--num-pruned", "2", "--out", str(tmp_path / "out"), *arguments)
    assert status == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_diverged_run_is_one_line_and_the_next_needs_no_new_supernet(trained: Path, tmp_path: Path) -> None:
    options = ("prune", str(trained), *SHORT, "--num-pruned", "2", "--out", str(tmp_path))
    status, _, error = run(*options, "--lr", "1e30")
    assert status == 2
    last = error.strip().splitlines()[-1]
    assert last.startswith("updp-rt: subnet: ")
    assert "try a smaller learning rate (lr is 1e+30)" in last
    supernet = (tmp_path / "supernet.safetensors").stat().st_mtime_ns
    assert run(*options, "--lr", "1e-4")[0] == 0
    assert (tmp_path / "supernet.safetensors").stat().st_mtime_ns == supernet


def test_inspect_times_blocks_and_forms(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("updp_rt.pruning.measure_latency", table)
    status, out, _ = run("inspect", str(trained), "--latency", "--batch", "2")
    text = " ".join(out.split())
    assert status == 0
    assert text.count("0.25 ms") == 6
    assert "takes 8 ms for 2 on none" in text
    assert "3.5 ms (2.29×) with every block merged that is faster so" in text
    status, out, _ = run("inspect", str(trained), "--latency", "--json")
    assert json.loads(out)["latency"]["blocks"]["blocks.0"]["baseline_ms"] == 1.0
    assert models.inspect.__doc__


def test_the_demo_s_table_has_the_accelerated_models_with_their_verdicts(trained: Path) -> None:
    row = {"accuracy": 0.9, "depth": 5, "params": 1e6, "macs": 1e6, "latency_ms": 4.0, "speedup": 1.0}
    summary = dict.fromkeys(("baseline", "subnet", "merged"), row) | {
        "architecture": "test_vit",
        "blocks": {},
        "images": 50,
        "evaluated_on": "test",
        "predictions_that_differ": 0,
        "predicted_ms": 3.0,
        "batch_size": 8,
        "device": "cpu",
    }
    fast = [
        common.Accelerated("baseline, accelerated", 200.0, 500.0, certified=True),
        common.Accelerated("merged, accelerated", 2.0, 5.0, certified=False),
        common.Accelerated("merged, openvino", 1.0, 5.0, certified=None),
    ]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(common.summary_table(summary, fast))
    lines = {line.strip().partition("  ")[0]: line.split() for line in capture.get().splitlines()}
    assert lines["baseline, accelerated"][2:] == ["certified", "200.00", "ms", "2.50×"]
    assert lines["merged, accelerated"][2:] == ["FAILED", "2.00", "ms", "2.50×"]
    assert lines["merged, openvino"][2:] == ["logits", "1.00", "ms", "5.00×"]
