"""``updp-rt prune --config``: what a file may say, what wins over it, and the recipes that ship."""

from __future__ import annotations

import json
import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.cli.test_cli import run
from tests.data.making import make_folder
from tests.pruning.conftest import small_model
from updp_rt.blocks import count_costs, prunable_blocks
from updp_rt.cli.recipe import read_recipe
from updp_rt.cli.settings import read_settings
from updp_rt.pruning import PruneConfig
from updp_rt.pruning.method import find_method
from updp_rt.pruning.plan import EXA, estimate_flops

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
# ImageNet-1k without test/: a tenth of its 1,281,167 training images is held out to choose by.
TRAIN, VAL = 1_153_050, 128_117


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def weights(folder: Path) -> str:
    save_file(small_model().state_dict(), folder / "start.safetensors")
    return str(folder / "start.safetensors")


def planned(*arguments: str) -> dict[str, Any]:
    status, out, error = run("prune", *arguments, "--dry-run", "--json")
    assert status == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "recipe.yaml: unknown key epoch; did you mean epochs? there are model, data, out,"),
        ("pictures: {hflipp: 1}", "recipe.yaml: unknown key pictures.hflipp; did you mean hflip? there are mean,"),
        ("about: {devices: 0}", "recipe.yaml: about.devices: input should be greater than or equal to 1, not 0"),
        ("lr: -1", "recipe.yaml: lr: input should be greater than 0, not -1"),
        ("lr: [1]", "recipe.yaml: lr: input should be a valid number, not [1]"),
        ("pretrained: maybe", "recipe.yaml: pretrained: input should be a valid boolean"),
        ("lr: 1\nlr: 2", "recipe.yaml: cannot be read (lr stands twice"),
        ("lr: {", "recipe.yaml: cannot be read (while parsing"),
        ("- lr", "recipe.yaml: not a recipe; lines such as num_pruned: 6 were expected"),
        ("", "recipe.yaml: not a recipe; lines such as num_pruned: 6 were expected"),
        ("max_latency: 0.5", "and --front, not recipe.yaml: num_pruned and recipe.yaml: max_latency"),
        ("&a [*a]", "recipe.yaml: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    also = "" if text.startswith(("-", "&")) or not text else "\nnum_pruned: 2\nmodel: test_vit\n"
    path = written(tmp_path, text + also)
    status, _, error = run("prune", "--config", str(path), "--checkpoint", weights(tmp_path))
    assert status == 2
    assert message in error.replace(f"{tmp_path}/", "")
    assert len(error.strip().splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    status, _, error = run("prune", "--config", str(tmp_path / "no.yaml"))
    assert (status, error.strip()) == (2, f"updp-rt: {tmp_path}/no.yaml: cannot be read (No such file or directory)")
    status, _, error = run("prune", "--pretrained", "--num-pruned", "2")
    assert status == 2
    assert "give a MODEL, or with --config a recipe that names one" in error


def test_words_are_text_but_for_true_and_false(tmp_path: Path) -> None:
    path = written(tmp_path, "mixed_precision: no\nout: yes\nimg_size: 224\npretrained: true\nlr: 5e-4\n")
    options, settings = read_recipe(path)
    assert (options.out, options.img_size, options.pretrained) == (Path("yes"), "224", True)
    assert settings["mixed_precision"] == "no"
    assert PruneConfig.model_validate({**settings, "num_pruned": 1}).lr == 5e-4


def test_the_command_line_wins() -> None:
    file = Path("r.yaml")
    read = partial(read_settings, PruneConfig, file=file, written={"num_pruned": 6, "lr": 0.1, "epochs": 3, "seed": 4})
    found = read({"lr": 0.2, "num_pruned": None, "seed": None}, ["epochs=5"])
    assert (found.num_pruned, found.lr, found.epochs, found.seed) == (6, 0.2, 5, 4)
    found = read({"max_latency": 0.5}, [])
    assert (found.num_pruned, found.max_latency) == (None, 0.5)
    with pytest.raises(ValueError, match=r"^--lr: input should be greater than 0, not -1"):
        read({"lr": -1}, [])


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = written(
        tmp_path,
        f"model: test_vit\nimg_size: 32\nnum_pruned: 2\nbatch_size: 4\naccumulate: 2\ntrials: 3\nepochs: 5\n"
        f"supernet_epochs: 2\nout: {out}\n",
    )
    start = ("--config", str(path), "--checkpoint", weights(tmp_path))
    found = planned(*start, "--epochs", "2", "--grad-checkpointing")
    assert (found["folder"], found["batch"], found["processes"]) == (str(out), 8, 1)
    steps = math.ceil(1078 // 4 / 2)
    assert {name: (stage["rounds"], stage["steps"]) for name, stage in found["stages"].items()} == {
        "supernet": (2, 2 * steps),
        "search": (3, 0),
        "train": (2, 2 * steps),
    }
    assert set(found["tried"]) == {"supernet", "train"}
    assert all(each["seconds"] > 0 for each in found["tried"].values())
    assert found["seconds"] == pytest.approx(sum(t["seconds"] * 2 * steps for t in found["tried"].values()))
    assert not out.exists()


@pytest.mark.slow
def test_a_dry_run_tries_the_step_with_its_teacher(tmp_path: Path) -> None:
    options = ("--checkpoint", weights(tmp_path), "--img-size", "32", "--batch-size", "4", "--num-pruned", "3")
    alone, taught = (planned("test_vit", *options, *more)["tried"]["train"] for more in ((), ("--distill", "1")))
    weights_of_teacher = 4 * sum(
        p.numel() for p in timm.create_model("test_vit", num_classes=10, img_size=32).parameters()
    )
    assert weights_of_teacher <= taught["memory"] - alone["memory"] < 1.1 * weights_of_teacher


@pytest.mark.slow
def test_a_dry_run_is_told_as_a_table(tmp_path: Path) -> None:
    options = ("--img-size", "32", "--batch-size", "4", "--set", "accumulate=2", "--num-pruned", "3")
    status, shown, error = run("prune", "test_vit", "--checkpoint", weights(tmp_path), *options, "--dry-run")
    assert status == 0, error
    assert "test_vit, num_pruned 3: nothing is written" in shown
    assert "1076 images to train on, 270 to choose by; 8 a step, of one process" in " ".join(shown.split())


@cache
def measured(name: str) -> tuple[int, int]:
    """Prunable blocks of a model, and its multiply-accumulates."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return len(prunable_blocks(model)), count_costs(model, (3, 224, 224))[0].macs


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_costs(path: Path) -> None:
    options, settings = read_recipe(path)
    config, about = PruneConfig.model_validate(settings), options.about
    assert options.model is not None
    assert about is not None
    blocks, macs = measured(options.model)
    assert blocks >= (config.num_pruned or 0) > 0
    flops = estimate_flops(config, config.trials, find_method("updp").passes(config), macs, TRAIN, VAL)
    assert about.exaflops == pytest.approx(sum(flops.values()) / EXA, rel=0.02)
    assert about.device_hours == pytest.approx(about.exaflops * EXA / (about.tflops * 1e12) / 3600, rel=0.02)
    assert path.stem.endswith(f"_{about.devices}")
    assert config.batch_size * config.accumulate * about.devices == 1024
    page = (path.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{path.stem}` | {about.devices} |"))
    assert f"| {config.supernet_epochs}, {config.epochs} | {about.exaflops:g} |" in row
    assert f"| {about.device_hours:g} at {about.tflops:g} TFLOP/s |" in row
    expected = about.expected
    assert expected.source in row or "(the paper's)" in row
    assert (expected.source == "the paper") == (options.model == "deit_tiny_patch16_224" and about.devices == 8)
    assert (expected.top1_lost is None) == (expected.source == "not yet measured")


def test_there_are_recipes_for_the_four_models() -> None:
    names = {f"{model}_{n}" for model in ("resnet34", "mobilenetv2", "convnext_tiny", "deit_tiny") for n in (1, 8)}
    assert {path.stem for path in RECIPES} == names


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_dry_on_generated_images(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: create(*a, **{**k, "pretrained": False}))
    counts = {f"{split}/{name}": 4 for split in ("train", "validation") for name in ("ant", "bee", "cat")}
    data = str(make_folder(tmp_path / "images", {**counts, "train/ant": 30}))
    small = ("--data", data, "--num-classes", "1000", "--img-size", "64", "--batch-size", "4", "--workers", "0")
    # Accelerate's precision is set once a process.
    found = planned("--config", str(path), *small, "--mixed-precision", "no", "--out", str(tmp_path / "out"))
    assert found["images"][1] == 4
    assert all(each["memory"] > 0 for each in found["tried"].values())
    assert found["about"]["expected"]["source"] in ("the paper", "not yet measured")
    assert not (tmp_path / "out").exists()
