"""Two processes train what one trains with the same images a step: losses, weights, statistics, figures."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.data.test_sharing import write_shards
from tests.pruning.conftest import small_model, small_split
from tests.pruning.launching import COUNT, in_two_processes
from updp_rt.blocks import make_progressive, progressive_blocks, set_lambda
from updp_rt.blocks.norms import BatchNormTokens
from updp_rt.blocks.randomize import randomize
from updp_rt.data import load_splits, make_loader
from updp_rt.data.pictures import EmptyBatchError
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.ranks import processes, rank
from updp_rt.pruning.recalibrate import recalibrate
from updp_rt.pruning.supernet import sandwich_losses
from updp_rt.pruning.synced import synced_batch_norms
from updp_rt.pruning.trainer import Losses, Recipe, evaluate, fit, label_losses, make_accelerator, seed_everything

pytestmark = pytest.mark.slow


class Wide(Dataset[Any]):
    """Digits in float64, changed at random, the label telling which they are; some cannot be read."""

    def __init__(self, images: int, torn: Sequence[int] = (), noise: float = 0.1) -> None:
        self.digits, self.torn, self.noise = small_split("train" if noise else "val", images), torn, noise

    def __len__(self) -> int:
        return len(self.digits)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        found = [(*self.digits[i], i) for i in indices if i not in self.torn]
        if not found:
            raise EmptyBatchError.of(len(indices))
        return [(image.double() + self.noise * torch.rand(()), number) for image, _, number in found]


PLAIN = Recipe(2, 1e-3, seed=3)


@dataclass(frozen=True)
class Case:
    model: str = "vit"
    losses: str = "plain"
    batch: int = 16  # of all processes together
    images: int = 35
    recipe: Recipe = PLAIN
    torn: tuple[int, ...] = ()


CASES = {
    "plain": Case(),
    "accumulated": Case(recipe=Recipe(2, 1e-3, seed=3, accumulate=2), images=52, batch=8),
    "supernet": Case(losses="sandwich", recipe=Recipe(2, 1e-3, seed=3, sync_batch_norm=True)),
    "convolutions": Case("resnet", "sandwich", recipe=Recipe(2, 1e-3, seed=3, sync_batch_norm=True)),
    "recomputed": Case("resnet", "ramp", recipe=Recipe(2, 1e-3, seed=3, sync_batch_norm=True, grad_checkpointing=True)),
    "unequal": Case("resnet", recipe=Recipe(2, 1e-3, seed=3, sync_batch_norm=True), torn=(3, 4, 5, 20)),
}


def make(case: Case) -> nn.Module:
    torch.manual_seed(1)
    if case.model == "vit":
        model = small_model(1)
    else:
        model = timm.create_model("resnet18", num_classes=10, channels=(8, 8, 12, 16))
    model = make_progressive(model) if case.losses != "plain" else model
    return randomize(model, 2).double()


def run(case: Case) -> dict[str, Any]:
    """Train; what was recorded, and what each step saw."""
    model, seen = make(case), list[dict[str, Any]]()
    if rank():  # what others start from does not count
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(1)
    known = {"plain": label_losses(), "sandwich": sandwich_losses(3, 2), "ramp": progressive_losses(3)}
    given: Losses = known[case.losses]

    def watched(model: nn.Module, images: Tensor, numbers: Tensor, step: int) -> Iterator[Tensor]:
        lams = []
        for loss in given(model, images, numbers % 10, step):
            lams.append([block.lam for block in progressive_blocks(model).values()])
            yield loss
        seen.append({"step": step, "numbers": numbers.tolist(), "lams": lams, "random": float(torch.rand(()))})

    loader = make_loader(Wide(case.images, case.torn), case.batch // processes(), training=True, seed=case.recipe.seed)
    val = make_loader(Wide(29, noise=0.0), 4, training=False)

    def after(model: nn.Module) -> dict[str, Any]:
        set_lambda(model, 0.0)
        return {"share": evaluate(model, val, together=True)}

    with TemporaryDirectory() as folder:
        history = fit(
            model,
            loader,
            watched,
            case.recipe,
            stage="test",
            accelerator=make_accelerator(),
            progress=Progress(show=False),
            checkpoint=Path(folder) / "test.ckpt",
            after_epoch=after,
        )
    return {"history": history, "state": model.state_dict(), "seen": seen}


def norms() -> dict[str, nn.Module]:
    made = {
        "plain": nn.BatchNorm2d(5, eps=1e-3, momentum=0.3),
        "bare": nn.BatchNorm2d(5, affine=False),
        "tokens": BatchNormTokens(5),
        "activation": BatchNormAct2d(5),
    }
    for number, norm in enumerate(made.values()):
        randomize(norm, number)
    return {name: norm.double() for name, norm in made.items()}


def norm_input(name: str) -> tuple[Tensor, Tensor]:
    """Eight images, and what their outputs are weighed by."""
    shape = (8, 3, 5) if name == "tokens" else (8, 5, 3, 4)
    generator = torch.Generator().manual_seed(7)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return made[0] * 3 + 2, made[1]


def run_norms(part: slice) -> dict[str, Any]:
    found = {}
    for name, norm in norms().items():
        x, weights = (tensor[part] for tensor in norm_input(name))
        x.requires_grad_()
        with synced_batch_norms(norm):
            y = norm(x)
            (y * weights).sum().backward()
        grads = {key: value.grad for key, value in norm.named_parameters()}
        found[name] = {"y": y.detach(), "x": x.grad, "grads": grads, "state": norm.state_dict()}
        assert "forward" not in vars(norm)
    return found


def recalibrated() -> dict[str, Tensor]:
    model = make(CASES["convolutions"])
    set_lambda(model, 1.0, list(progressive_blocks(model))[:3])
    generator = torch.Generator().manual_seed(5)
    batches = [torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64) for _ in range(3)]
    recalibrate(model, batches, together=True)
    return model.state_dict()


def run_shards() -> list[dict[str, Any]]:
    """Train on shards; the images of each step, by epoch."""
    seen: list[dict[str, Any]] = []

    def watched(model: nn.Module, images: Tensor, numbers: Tensor, step: int) -> Iterator[Tensor]:
        yield F.cross_entropy(model(images), numbers % 10)
        seen.append({"step": step, "numbers": numbers.tolist()})

    with TemporaryDirectory() as folder:
        data = load_splits(f"wds/{write_shards(Path(folder), (11, 1, 7, 4), torn=(5,))}", (3, 32, 32), num_classes=100)
        val = make_loader(data.val, 3, training=False)
        fit(
            small_model(),
            make_loader(data.train, 3, training=True, seed=3),
            watched,
            PLAIN,
            stage="test",
            accelerator=make_accelerator(),
            progress=Progress(show=False),
            checkpoint=Path(folder) / "test.ckpt",
            after_epoch=lambda model: {"share": evaluate(model, val, together=True)},
        )
    return seen


def everything() -> dict[str, Any]:
    """All that is asked of a process, in one go: starting them takes longer."""
    parts = [slice(0, 8)] if processes() == 1 else [slice(0, 5), slice(5, 8)]
    seed_everything(0, "stage", 0, rank())
    return {
        "cases": {name: run(case) for name, case in CASES.items()},
        "norms": run_norms(parts[rank()]),
        "recalibrated": recalibrated(),
        "shards": run_shards(),
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return in_two_processes(everything, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> Any:
    cases = copy.copy(CASES)
    cases["accumulated"] = replace(cases["accumulated"], batch=16, recipe=PLAIN)
    return {
        "cases": {name: run(case) for name, case in cases.items()},
        "norms": run_norms(slice(0, 8)),
        "recalibrated": recalibrated(),
    }


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_process(name: str, both: list[Any], alone: Any) -> None:
    wanted = alone["cases"][name]["history"]
    for found in both:
        history = found["cases"][name]["history"]
        assert [record["step"] for record in history] == [record["step"] for record in wanted]
        assert [record["loss"] for record in history] == pytest.approx([r["loss"] for r in wanted], rel=1e-6)
        assert [record["share"] for record in history] == [record["share"] for record in wanted]


@pytest.mark.parametrize("name", CASES)
def test_weights_and_statistics_are_those_of_one_process(name: str, both: list[Any], alone: Any) -> None:
    wanted = alone["cases"][name]["state"]
    for found in both:
        for key, value in found["cases"][name]["state"].items():
            torch.testing.assert_close(value, wanted[key], rtol=1e-6, atol=1e-9, msg=lambda text: f"{key}: {text}")


@pytest.mark.parametrize("name", CASES)
def test_images_of_a_step_are_shared_out(name: str, both: list[Any], alone: Any) -> None:
    """None twice, none left out of what one process takes."""
    ours = [found["cases"][name]["seen"] for found in both]
    assert len(ours[0]) == len(ours[1])
    for wanted in {step["step"] for step in alone["cases"][name]["seen"]}:
        together = [n for seen in ours for step in seen if step["step"] == wanted for n in step["numbers"]]
        one = [n for step in alone["cases"][name]["seen"] if step["step"] == wanted for n in step["numbers"]]
        assert sorted(together) == sorted(one)


def test_shards_are_shared_out(both: list[Any]) -> None:
    """23 images, one of them torn, in 3 steps an epoch of 3 images in each of two processes: none of them twice."""
    first, second = (found["shards"] for found in both)
    assert [step["step"] for step in first] == [step["step"] for step in second] == list(range(6))
    epochs = []
    for epoch in range(2):
        taken = [[n for step in seen[3 * epoch :][:3] for n in step["numbers"]] for seen in (first, second)]
        assert [len(numbers) for numbers in taken] == [9, 9]
        assert not set(taken[0]) & set(taken[1])
        assert len({*taken[0], *taken[1]}) >= 17, "one is given twice where the torn one was"
        assert 5 not in {*taken[0], *taken[1]}
        epochs.append(taken)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", ["supernet", "convolutions"])
def test_processes_draw_the_same_subnets_and_other_numbers(name: str, both: list[Any]) -> None:
    first, second = (found["cases"][name]["seen"] for found in both)
    assert [step["lams"] for step in first] == [step["lams"] for step in second]
    assert len({str(step["lams"][2:]) for step in first}) > 1
    assert all(a["random"] != b["random"] for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ["plain", "bare", "tokens", "activation"])
def test_a_synced_norm_is_the_norm_of_all_images(name: str, both: list[Any], alone: Any) -> None:
    ours, wanted = [found["norms"][name] for found in both], alone["norms"][name]
    for key in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[key] for part in ours]), wanted[key], rtol=1e-10, atol=1e-12)
    for key, value in wanted["grads"].items():
        torch.testing.assert_close(sum(part["grads"][key] for part in ours), value, rtol=1e-10, atol=1e-12)
    for part in ours:
        for key, value in wanted["state"].items():
            torch.testing.assert_close(part["state"][key], value, rtol=1e-12, atol=1e-12)


def test_recalibration_counts_the_batches_of_all(both: list[Any], alone: Any) -> None:
    before = make(CASES["convolutions"]).state_dict()
    moved = [key for key, value in alone["recalibrated"].items() if not torch.equal(value, before[key])]
    assert len(moved) > 20
    for found in both:
        for key, value in alone["recalibrated"].items():
            torch.testing.assert_close(found["recalibrated"][key], value, rtol=1e-12, atol=1e-12)


def test_a_norm_outside_of_training_stays_as_it_is() -> None:
    """One process alone changes nothing, and what it trains with is what torch has."""
    assert processes() == 1
    assert COUNT == 2
    norm, x = nn.BatchNorm2d(5).double(), norm_input("plain")[0]
    with synced_batch_norms(norm):
        assert "forward" not in vars(norm)
        torch.testing.assert_close(norm(x), F.batch_norm(x, None, None, training=True), rtol=0, atol=0)
