"""Less memory: gradients added up over batches are those of one batch, and blocks that run again change no bits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.marks import slow
from tests.pruning.conftest import small_model
from updp_rt.blocks import UnsupportedModelError, make_progressive, progressive_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.data import make_loader
from updp_rt.pruning.memory import SavedForBackward, largest_block, state_bytes
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.recompute import outermost_blocks, recomputed_blocks
from updp_rt.pruning.trainer import Losses, Recipe, fit, label_losses, make_accelerator


def images(count: int, dtype: torch.dtype = torch.float64) -> TensorDataset:
    generator = torch.Generator().manual_seed(4)
    pictures = torch.randn(count, 3, 32, 32, generator=generator, dtype=dtype)
    return TensorDataset(pictures, torch.randint(0, 10, (count,), generator=generator))


def train(model: nn.Module, losses: Losses, data: TensorDataset, batch: int, recipe: Recipe, folder: Path) -> Any:
    history = fit(
        model,
        make_loader(data, batch, training=True),
        losses,
        recipe,
        stage="test",
        accelerator=make_accelerator(),
        progress=Progress(show=False),
        checkpoint=folder / "test.ckpt",
    )
    (folder / "test.ckpt").unlink()
    return history


def test_gradients_of_batches_add_up_to_those_of_one(tmp_path: Path) -> None:
    """Four batches of 2 are one of 8, twice."""
    found: dict[int, list[Tensor]] = {}
    for accumulate in (1, 4):
        model, seen = small_model().double(), list[Tensor]()
        torch_step = torch.optim.AdamW.step

        def step(self: Any, closure: Any = None) -> Any:
            seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            return torch_step(self, closure)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", step)
            recipe = Recipe(1, 1e-3, accumulate=accumulate)
            train(model, label_losses(), images(16), 8 // accumulate, recipe, tmp_path)
        found[accumulate] = seen
    assert len(found[1]) == 2
    for one, many in zip(found[1], found[4], strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-12)


def test_a_last_step_of_fewer_batches_is_the_mean_of_those(tmp_path: Path) -> None:
    """Gradients of six images in three batches, not four quarters of which one is missing."""
    data, seen = images(6), list[Tensor]()
    model, whole = small_model().double(), small_model().double()
    torch.nn.functional.cross_entropy(whole(data.tensors[0]), data.tensors[1]).backward()
    wanted = whole.get_parameter("head.weight").grad
    keep = torch.optim.AdamW.step

    def step(self: Any, closure: Any = None) -> Any:
        seen.append(model.get_parameter("head.weight").grad.clone())
        return keep(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(model, label_losses(), data, 2, Recipe(1, 1e-3, accumulate=4), tmp_path)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], wanted, rtol=1e-6, atol=1e-12)


def make(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "vit":
        model = timm.create_model("test_vit", img_size=32, num_classes=10, drop_path_rate=0.3, proj_drop_rate=0.2)
    else:
        model = timm.create_model("resnet18", num_classes=10, channels=(8, 8, 12, 16), drop_rate=0.2)
    return randomize(make_progressive(model), 3)


@pytest.mark.parametrize("name", [slow("vit"), "resnet"])
def test_blocks_that_run_again_change_no_bits(name: str, tmp_path: Path) -> None:
    """Dropout, stochastic depth and BatchNorm's statistics among them; λ goes from 0 to 1."""
    states = []
    for again in (False, True):
        model = make(name)
        recipe = Recipe(1, 1e-3, grad_checkpointing=again)
        history = train(model, progressive_losses(2), images(12, torch.float32), 4, recipe, tmp_path)
        assert not [module for module in model.modules() if "forward" in vars(module)]
        states.append((history, model.state_dict()))
    assert states[0][0] == states[1][0]
    for key, value in states[0][1].items():
        assert torch.equal(value, states[1][1][key]), key


def test_blocks_inside_of_blocks_run_again_once() -> None:
    model = make("vit")
    assert outermost_blocks(model) == list(progressive_blocks(model).values())
    assert len(outermost_blocks(small_model())) == 6
    with pytest.raises(UnsupportedModelError):
        outermost_blocks(nn.Linear(2, 2))


def test_what_backward_needs_is_counted_once() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(5, 8)
    with SavedForBackward(model) as saved:
        y = model(x)
        assert saved.bytes == 4 * (5 * 8 + 5 * 16)  # the input, and the ReLU's output, which the next layer keeps too
        y.sum().backward()
        saved.forget()
        assert saved.bytes == 0
    assert state_bytes(model) == 4 * 4 * (8 * 16 + 16 + 16 * 4 + 4)


def held(model: nn.Module, batch: int, size: int, again: bool) -> int:
    x = torch.zeros(batch, 3, size, size, device=next(model.parameters()).device)
    with SavedForBackward(model.train()) as saved, recomputed_blocks(model) if again else nullcontext():
        model(x)
        found = saved.bytes
    return found + (largest_block(model, x) if again else 0)


def test_a_block_that_runs_again_needs_what_it_did() -> None:
    model, x = make("vit"), torch.zeros(2, 3, 32, 32)
    alone = []
    for block in progressive_blocks(model).values():
        with SavedForBackward(block) as saved:
            block(torch.zeros(2, 5, 64, requires_grad=True))
            alone.append(saved.bytes)
    assert 0.8 * max(alone) < largest_block(model, x) <= max(alone)


def test_blocks_that_run_again_hold_less() -> None:
    model = make("vit")
    set_lambda(model, 0.5)
    assert held(model, 2, 32, True) < 0.5 * held(model, 2, 32, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_base_patch16_224", "convnext_base"])
def test_the_figures_of_the_docs(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    with torch.device("meta"):
        model = timm.create_model(name)
        figures = [state_bytes(model), *(held(model, 64, 224, again) for again in (False, True))]
    shown = " | ".join(f"{bytes / 2**30:.1f} GB" for bytes in figures)
    assert f"| `{name}` | {shown} |" in page
