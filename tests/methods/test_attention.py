"""Attentions and GELUs cut out of transformer blocks: gates, budgets, and what is left is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.methods.test_runs import made, run_method
from updp_rt.blocks import NoAttention, UnsupportedModelError
from updp_rt.methods.attention import FadingAttention
from updp_rt.methods.gates import RATE
from updp_rt.methods.hetdpt import HetDPT, cut_parts, cutting_losses, due, gated_parts
from updp_rt.methods.nose import Nose, faded


def vit() -> nn.Module:
    return made("test_vit").double().eval()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=generator), torch.tensor([0, 1, 2, 0])


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_a_chooser_starts_as_the_model_and_parts_are_all_attentions_and_gelus() -> None:
    model = vit()
    chooser = HetDPT().chooser(model, {})
    assert set(gated_parts(chooser)) == {f"blocks.{i}.{part}" for i in range(6) for part in ("attn", "mlp.act")}
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(chooser(images), model(images))


def test_a_part_s_gate_learns_what_the_part_gives() -> None:
    """``dL/dm = <dL/dy, f(x) - x>`` of kept parts and of cut ones, by hand."""
    chooser = HetDPT().chooser(vit(), {}).eval()
    found = gated_parts(chooser)
    for part in found.values():
        part.gate.data = part.gate.data.double()
    found["blocks.2.attn"].cut.fill_(True)
    seen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(name: str, part: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        output.retain_grad()
        with torch.no_grad():
            seen[name] = args[0].detach(), part.inner(*args, **kwargs), output

    for name, part in found.items():
        part.register_forward_hook(lambda *a, name=name: keep(name, *a), with_kwargs=True)
    (loss,) = cutting_losses(0, 10)(chooser, *batch(), 0)
    loss.backward()
    for name, part in found.items():
        x, y, output = seen[name]
        assert torch.equal(output.detach(), x if name == "blocks.2.attn" else y)
        assert output.grad is not None
        wanted = RATE * float((output.grad * (y - x)).sum())
        assert float(part.gate.grad) == pytest.approx(wanted, rel=1e-9)  # type: ignore[arg-type]


def test_parts_are_cut_in_turn_for_good_and_in_time() -> None:
    shares = (0, 3 / 15 - 0.01, 3 / 15, 8 / 15 - 0.01, 8 / 15, 0.99, 1)
    assert [due(share, 3) for share in shares] == [0, 0, 1, 1, 2, 2, 3]
    chooser = HetDPT().chooser(vit(), {})
    found = gated_parts(chooser)
    gates = torch.rand(len(found), generator=torch.Generator().manual_seed(0))
    for part, gate in zip(found.values(), gates, strict=True):
        part.gate.data.fill_(float(gate))
    cut: list[str] = []
    for count in (1, 2, 5):
        cut_parts(chooser, count)
        now = [name for name, part in found.items() if part.cut]
        assert len(now) == count
        assert set(cut) <= set(now)
        cut = now
    ranked = sorted(found, key=lambda name: float(found[name].gate.detach()))
    gelus, attentions = ([name for name in ranked if name.endswith(kind)] for kind in ("act", "attn"))
    assert set(cut) == {*gelus[:3], *attentions[:2]}
    for name in cut:
        found[name].gate.data.fill_(9.0)  # whatever the gate says later
    cut_parts(chooser, 5)
    assert {name for name, part in found.items() if part.cut} == set(cut)


def test_what_is_merged_is_what_was_trained() -> None:
    model, images = vit(), batch()[0]
    bodies = {"blocks.1.attn": "none", "blocks.1.mlp.act": "linear", "blocks.4.mlp.act": "linear"}
    method = HetDPT()
    subnet = method.subnet(model, bodies)
    with torch.no_grad():
        merged = method.merge(subnet, lambda bodies: {})
        assert error(merged(images), subnet(images)) < 1e-12
        chooser = method.chooser(model, {})
        for name, part in gated_parts(chooser).items():
            part.lam = float(name in bodies)
        assert error(chooser(images), subnet(images)) < 1e-12
        assert error(subnet(images), model(images)) > 1e-3
    assert isinstance(merged.get_submodule("blocks.4.mlp"), nn.Linear)
    assert isinstance(merged.get_submodule("blocks.1.attn"), NoAttention)
    block: Any = subnet.get_submodule("blocks.1")
    tokens = torch.randn(2, 5, 64, dtype=torch.float64)
    with torch.no_grad():
        halfway = tokens + block.ls1(block.norm1(tokens))
        assert error(block(tokens), halfway + block.ls2(block.mlp(block.norm2(halfway)))) < 1e-12


def test_attention_fades_into_twice_the_tokens() -> None:
    model, images = vit(), batch()[0]
    subnet = Nose().subnet(model, {"blocks.0.attn": "doubled", "blocks.3.attn": "doubled"})
    with torch.no_grad():
        assert error(subnet(images), model(images)) < 1e-12  # λ = 0
        block: Any = faded(subnet, 0.25).get_submodule("blocks.3")
        inside, old = block.attn, model.get_submodule("blocks.3")
        tokens = torch.randn(2, 5, 64, dtype=torch.float64)
        wanted = (1 + 0.25) * tokens + 0.75 * old.ls1(old.attn(old.norm1(tokens)))  # type: ignore[operator]
        assert isinstance(inside, FadingAttention)
        assert error(block(tokens), wanted + block.ls2(block.mlp(block.norm2(wanted)))) < 1e-12
        merged = Nose().merge(faded(subnet), lambda bodies: {})
        assert error(merged(images), subnet(images)) < 1e-12
        doubled = merged.get_submodule("blocks.3")
        assert error(doubled(tokens), 2 * tokens + doubled.ls2(doubled.mlp(doubled.norm2(2 * tokens)))) < 1e-12  # type: ignore[operator]


def test_attention_fades_while_training() -> None:
    subnet = Nose().subnet(vit(), {"blocks.0.attn": "doubled"})
    run: Any = type("Run", (), {"config": updp_rt.PruneConfig.model_validate({"num_pruned": 1}), "model": vit()})()
    losses, seen = Nose().losses(run, 4, []), []
    for step in range(6):
        next(iter(losses(subnet, *batch(), step)))
        seen.append(subnet.get_submodule("blocks.0.attn").lam)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("method", [HetDPT(), Nose()])
def test_only_transformers_have_attention(method: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=f"the method {method.name} takes parts out of transformer blocks"):
        method.names(timm.create_model("resnet10t"))


@pytest.mark.parametrize("method", ["hetdpt", "nose"])
@pytest.mark.usefixtures("untimed")
def test_a_run(method: str, tmp_path: Path) -> None:
    """Its merged model is saved, loaded, accelerated and certified."""
    result = run_method(tmp_path / "run", method, made("test_vit"), num_pruned=3)
    assert len(result.pruned) == 3
    assert result.summary["predictions_that_differ"] == 0
    images = torch.randn(2, 3, 32, 32)
    loaded = updp_rt.load(tmp_path / "run" / "merged")
    with torch.no_grad():
        assert torch.allclose(loaded(images), result.merge()(images), atol=1e-5)
        fast = updp_rt.accelerate(loaded, images, measure=False)
        assert updp_rt.verify(loaded, fast, images).passed
    left_out = sum(isinstance(module, NoAttention) for module in loaded.modules())
    assert left_out == (1 if method == "hetdpt" else 3)
