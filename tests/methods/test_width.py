"""Methods that narrow transformers: what their gates learn, what they keep, and runs of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor

import updp_rt
from tests.methods.test_runs import run_method
from tests.methods.test_units import SIZE, images, tiny
from updp_rt.blocks import TokenPool, count_costs
from updp_rt.methods import METHODS, S2ViTE, Scop, WDPruning, WDPruningAsCoded, XPruner, find_method
from updp_rt.methods.gates import RATE
from updp_rt.methods.s2vite import due, growing_losses, regrow
from updp_rt.methods.scop import knockoff_losses, other_class, score
from updp_rt.methods.units import find_budget, find_gates, merged_macs
from updp_rt.methods.wdpruning import START, count_kept, threshold, threshold_losses
from updp_rt.methods.xpruner import SMOOTH, SPARSE, THRESHOLD, WIDTH, class_losses

LABELS = torch.tensor([0, 2, 0])
BUDGET = find_budget("wdpruning", tiny(), 1, SIZE)


def gated(method: Any) -> tuple[Any, dict[str, Any]]:
    """A method's chooser, and its gates."""
    chooser = method.chooser(tiny().double(), {}).eval()
    return chooser, find_gates(chooser)


def spread(values: Tensor, x: Tensor) -> Tensor:
    return values.repeat_interleave(x.shape[-1] // values.shape[-1], -1)


class Seen:
    """What goes into each gate's layer and its gradient, and what came into the gate."""

    def __init__(self, gates: dict[str, Any]) -> None:
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        for part, gate in gates.items():
            gate.register_forward_pre_hook(lambda _, args, part=part: self.before.__setitem__(part, args[0].detach()))
            gate.inner.register_forward_pre_hook(lambda _, args, part=part: self.keep(part, args[0]))

    def keep(self, part: str, x: Tensor) -> None:
        x.retain_grad()
        self.after[part] = x

    def of_mask(self, part: str, units: int) -> Tensor:
        """``dL/dm`` of a mask of each unit, by hand."""
        gradient = self.after[part].grad
        assert gradient is not None
        return (gradient * self.before[part]).unflatten(-1, (units, -1)).sum((0, 1, 3))


@pytest.mark.parametrize("method", [WDPruning(), WDPruningAsCoded()])
def test_scores_and_thresholds_learn_as_published(method: Any) -> None:
    chooser, gates = gated(method)
    draw = torch.Generator().manual_seed(0)
    for gate in gates.values():
        gate.scores.data = torch.randn(gate.scores.shape, generator=draw, dtype=torch.float64)
        gate.threshold.data.fill_(-0.72)
    pace, seen = 4.7, Seen(gates)
    (loss,) = threshold_losses(BUDGET, pace, 10, method.grouped)(chooser, images(), LABELS, 0)
    loss.backward()
    share = torch.sigmoid(torch.tensor(START - 0.72 * pace, dtype=torch.float64))
    for part, gate in gates.items():
        units = BUDGET.units[part]
        kept = torch.zeros(units, dtype=torch.float64)
        kept[gate.scores.detach().flatten().topk(count_kept(float(share), units)).indices] = 1
        assert kept.sum() == {4: 3, 192: 128}[units]
        assert torch.equal(seen.after[part].detach(), seen.before[part] * spread(kept, seen.before[part]))
        wanted = seen.of_mask(part, units)
        rate = RATE if method.grouped else 1
        torch.testing.assert_close(gate.scores.grad.flatten(), rate * wanted, rtol=1e-9, atol=1e-12)
        # The penalty's multipliers are still 0.
        of_share = float((wanted * kept).sum() * share * (1 - share) * pace)
        assert float(gate.threshold.grad) == pytest.approx(of_share, rel=1e-9)


def test_scores_decay_as_coded_and_not_as_published() -> None:
    for method, decays in ((WDPruning(), 0.0), (WDPruningAsCoded(), 0.05)):
        chooser, gates = gated(method)
        optimizer = create_optimizer_v2(chooser, opt="adamw", lr=1.0, weight_decay=0.05)
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert {decay[id(gate.scores)] for gate in gates.values()} == {decays}
        assert {decay[id(gate.threshold)] for gate in gates.values()} == {0.0}


def test_multipliers_rise_while_too_much_is_kept_and_pull_thresholds_down() -> None:
    chooser, gates = gated(WDPruning())
    losses = threshold_losses(BUDGET, 1.0, 10)
    first, second = (next(iter(losses(chooser, images(), LABELS, step))) for step in (0, 5))
    assert chooser.multipliers.tolist() == [10.0 + 5.0] * 2
    share = 1 / (1 + torch.tensor(-START, dtype=torch.float64).exp())
    beyond = BUDGET.goal / BUDGET.whole - float(1 - share)
    assert float((second - first).detach()) == pytest.approx(10 * beyond + 10 * beyond**2, rel=1e-6)
    for gate in gates.values():
        gate.threshold.data.fill_(-START - 3)  # far less than the target
    low = next(iter(losses(chooser, images(), LABELS, 6)))
    wanted = F.cross_entropy(chooser(images()), LABELS)
    assert float(low.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert chooser.multipliers.tolist() == [15.0] * 2


def test_counts_are_multiples_of_16_where_layers_are() -> None:
    found = [count_kept(share, 192) for share in (0.0, 1e-9, 0.1, 0.124, 0.126, 0.5, 0.999, 1.0)]
    assert found == [0, 16, 16, 32, 32, 96, 192, 192]
    assert [count_kept(share, 6) for share in (0.1, 0.5, 0.51)] == [1, 3, 4]


def test_thresholds_move_together_until_the_budget_is_met() -> None:
    chooser, gates = gated(WDPruning())
    run: Any = type("Run", (), {})()
    run.config = updp_rt.PruneConfig.model_validate({"num_pruned": 1, "supernet_epochs": 1})
    run.steps, run.progress = lambda epochs: 8 * epochs, type("Silent", (), {"log": lambda self, line: None})()
    method = WDPruning()
    for part, gate in gates.items():
        gate.threshold.data.fill_((1.0 if "blocks.0" in part else -1.0) / method.pace(run))
        gate.scores.data = torch.arange(len(gate.kept)).double()
        assert float(threshold(gate, method.pace(run)).detach()) == pytest.approx(
            START + (1 if "blocks.0" in part else -1)
        )
    masks = method.masks(run, chooser, BUDGET)
    counts = {part: int(kept.sum()) for part, kept in masks.items()}
    assert BUDGET.is_met(counts)
    assert not BUDGET.is_met({part: count + 16 * part.endswith("mlp") for part, count in counts.items()})
    assert counts["blocks.1.mlp"] < counts["blocks.0.mlp"]
    assert all(kept[-counts[part] :].all() for part, kept in masks.items())


def test_units_are_dropped_and_grown_in_equal_numbers() -> None:
    kept = torch.tensor([True, True, True, True, False, False])
    missed, gives = torch.tensor([4.0, 1.0, 2.0, 3.0, 0.0, 0.0]), torch.tensor([9.0, 0.1, 0.2, 9.0, 0.3, 0.15])
    assert regrow(kept, missed, gives, 0.5).tolist() == [True, False, True, True, True, False]
    assert regrow(kept, missed, gives, 0.2).tolist() == kept.tolist()
    shares = [due(step, 1000) for step in range(1000)]
    assert [step for step, share in enumerate(shares) if share][:3] == [9, 19, 29]
    assert sum(share > 0 for share in shares) == 80
    assert shares[9] == pytest.approx(0.5, abs=1e-3)
    assert shares[799] == pytest.approx(0.005, abs=1e-4)
    assert due(2, 3) == 0
    assert due(0, 3) == 0.5


def test_units_grow_by_what_their_masks_would_give() -> None:
    chooser, gates = gated(S2ViTE())
    for gate in gates.values():
        gate.kept[::2] = False
    before = {part: gate.kept.clone() for part, gate in gates.items()}
    seen = Seen(gates)
    steps = growing_losses(4)(chooser, images(), LABELS, 0)
    next(steps).backward()
    assert next(steps, None) is None
    for part, gate in gates.items():
        gives = seen.of_mask(part, len(gate.kept)).abs()
        fc1, fc2 = chooser.blocks[int(part[7])].mlp.fc1, chooser.blocks[int(part[7])].mlp.fc2.inner
        norm = fc1.weight.detach().abs().sum(1) + fc2.weight.detach().abs().sum(0)
        live = before[part].nonzero().flatten()
        moved = len(live) // 2
        least = live[(gives if part.endswith("attn") else norm)[live].argsort()[:moved]]
        wanted = before[part].clone()
        wanted[least] = False
        dead = (~wanted).nonzero().flatten()
        wanted[dead[gives[dead].argsort(descending=True)[:moved]]] = True
        assert torch.equal(gate.kept, wanted)
        assert int(gate.kept.sum()) == len(live)


def test_real_features_are_mixed_with_knock_offs() -> None:
    chooser, gates = gated(Scop())
    assert {name for name, p in chooser.named_parameters() if p.requires_grad} == {
        f"{part}.{'proj' if part.endswith('attn') else 'fc2'}.mixing" for part in gates
    }
    for gate in gates.values():
        gate.mixing.data = torch.linspace(-0.5, 1.5, len(gate.kept), dtype=torch.float64) / RATE
    seen = Seen(gates)
    torch.manual_seed(0)
    (loss,) = knockoff_losses()(chooser, images(), LABELS, 0)
    loss.backward()
    for part, gate in gates.items():
        s = torch.linspace(-0.5, 1.5, len(gate.kept), dtype=torch.float64).clamp(0, 1)
        x, y = seen.before[part], seen.after[part]
        real, knockoff = x.chunk(2)
        mixed = spread(s, x) * real + (1 - spread(s, x)) * knockoff
        torch.testing.assert_close(y.detach(), torch.cat([mixed, knockoff]), rtol=1e-12, atol=1e-12)
        wanted = (y.grad[:3] * (real - knockoff)).unflatten(-1, (len(s), -1)).sum((0, 1, 3))  # type: ignore[index]
        torch.testing.assert_close(gate.mixing.grad, RATE * wanted, rtol=1e-6, atol=1e-12)
        weight = gate.inner.weight.detach().unflatten(1, (len(s), -1))
        norm = torch.stack([weight[:, unit].norm() for unit in range(len(s))])
        torch.testing.assert_close(score(gate), norm * (2 * s - 1), rtol=1e-9, atol=1e-9)


def test_a_knock_off_is_of_another_class() -> None:
    for labels in ([0, 1, 2, 0, 1, 2, 1, 1], [0, 0, 1, 1], [5, 3, 3, 5, 3, 5], [2, 2, 2, 0, 1]):
        found = torch.tensor(labels)
        partner = other_class(found)
        assert sorted(partner.tolist()) == list(range(len(labels)))
        if 2 * int(found.bincount().max()) <= len(labels):
            assert not (found[partner] == found).any()


def test_images_take_the_masks_of_their_classes() -> None:
    chooser, gates = gated(XPruner())
    draw = torch.Generator().manual_seed(0)
    masks = {}
    for part, gate in gates.items():
        gate.classes.data = 0.02 * torch.randn(gate.classes.shape, generator=draw, dtype=torch.float64)
        gate.threshold.data.fill_(0.03)
        masks[part] = 1 + RATE * gate.classes.detach().view(3, -1)
    seen = Seen(gates)
    (loss,) = class_losses(BUDGET)(chooser, images(), LABELS, 0)
    loss.backward()
    terms = {"sparse": 0.0, "smooth": 0.0, "gone": 0.0}
    for part, gate in gates.items():
        mean = masks[part].abs().mean(0)
        open_ = 1 / (1 + torch.exp(-(mean - THRESHOLD - RATE * 0.03) / WIDTH))
        x = seen.before[part]
        wanted = x * spread(masks[part][LABELS] * open_, x)[:, None]
        torch.testing.assert_close(seen.after[part].detach(), wanted, rtol=1e-6, atol=1e-9)
        weight = BUDGET.macs[part] * len(gate.kept) / BUDGET.whole
        terms["sparse"] += weight * float(mean.mean())
        terms["smooth"] += weight * float((masks[part] - masks[part].mean(0)).square().mean())
        terms["gone"] += weight * float(1 - open_.mean())
    plain = F.cross_entropy(chooser(images()), LABELS)
    held = SPARSE * terms["sparse"] + SMOOTH * terms["smooth"] + abs(terms["gone"] - BUDGET.goal / BUDGET.whole)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()) + held, rel=1e-6)
    gate = gates["blocks.1.mlp"]
    with_class_2 = gate.classes.grad.clone()
    gate.classes.grad = None
    class_losses(BUDGET)(chooser, images(), torch.tensor([0, 1, 0]), 0).__next__().backward()
    assert not torch.equal(gate.classes.grad.view(3, -1)[1], with_class_2.view(3, -1)[1])
    kept = XPruner().masks(None, chooser, BUDGET)  # type: ignore[arg-type]
    assert BUDGET.is_met({part: int(mask.sum()) for part, mask in kept.items()})


@pytest.mark.parametrize(
    "method",
    ["wdpruning", pytest.param("wdpruning-as-coded", marks=pytest.mark.slow), "s2vite", "scop", "xpruner", "hvt"],
)
@pytest.mark.usefixtures("untimed")
def test_a_run(method: str, tmp_path: Path) -> None:
    """It is within the budget; its model is saved, loaded, accelerated and certified."""
    result = run_method(tmp_path / "run", method, tiny(), num_pruned=1)
    assert set(result.pruned) <= set(find_method(method).names(tiny()))
    summary = result.summary
    assert summary["predictions_that_differ"] == 0
    assert summary["merged"]["macs"] <= merged_macs(tiny(), 1, SIZE)
    assert count_costs(result.merge(), SIZE)[0].macs == summary["merged"]["macs"]
    loaded, batch = updp_rt.load(tmp_path / "run" / "merged"), torch.randn(2, *SIZE)
    with torch.no_grad():
        assert torch.allclose(loaded(batch), result.subnet(batch), atol=1e-5)
        assert any(isinstance(module, TokenPool) for module in loaded.modules()) == (method == "hvt")
        if method in ("scop", "hvt"):  # the others' models are of the same kind
            fast = updp_rt.accelerate(loaded, batch, measure=False)
            assert updp_rt.verify(loaded, fast, batch).passed


def test_what_is_trained_for_a_number_is_not_taken_over_for_another() -> None:
    counting = {name for name, method in METHODS.items() if method.first_stage("num_pruned") == "supernet"}
    assert counting >= {"depthshrinker", "hetdpt", "s2vite", "wdpruning", "wdpruning-as-coded", "xpruner"}
    assert not counting & {"updp", "layer-folding", "scop"}
