"""Gates: their gradients, how many blocks they prune, and what they are pulled to."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from updp_rt.blocks import make_progressive, progressive_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.methods import depthshrinker
from updp_rt.methods.depthshrinker import DepthShrinker, hard_gate_losses
from updp_rt.methods.gates import PARAMETER, RATE, HardGate, SoftGate, clamp_gates, furthest_open, gate_values
from updp_rt.methods.layer_folding import PULL, LayerFolding, folded_state, soft_gate_losses


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_hard_gate_gives_one_side_and_the_gradient_of_the_difference(pruned: bool) -> None:
    old, new, gate = torch.randn(2, 3, 5, 7, dtype=torch.float64).requires_grad_().unbind() + (leaf(0.3),)  # noqa: RUF005
    weight = torch.randn(3, 5, 7, dtype=torch.float64)
    y = HardGate(gate[0], pruned=pruned).fade(old, new)
    assert torch.equal(y, new if pruned else old)
    d_old, d_new, d_gate = torch.autograd.grad((y * weight).sum(), [old, new, gate], allow_unused=True)
    assert torch.equal(d_new if pruned else d_old, weight)
    assert (d_old if pruned else d_new) is None
    assert torch.allclose(d_gate, (weight * (new - old)).sum(), rtol=1e-13)


def test_a_soft_gate_fades_and_its_gradient_is_that_of_the_formula() -> None:
    old, new = torch.randn(2, 4, 6, dtype=torch.float64).unbind()
    gate = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(SoftGate(gate).fade(old, new), 0.63 * old + 0.37 * new, rtol=1e-13)
    assert torch.autograd.gradcheck(lambda a: SoftGate(a).fade(old, new), (gate,))


def test_equal_gates_are_drawn_by_the_seed() -> None:
    values = dict.fromkeys("abcdefgh", 0.0)
    drawn = {tuple(furthest_open(values, 3, seed)) for seed in range(20)}
    assert len(drawn) > 10
    assert furthest_open(values, 3, 1) == furthest_open(values, 3, 1)
    assert set(furthest_open({**values, "c": 0.2, "f": 0.1}, 2, 5)) == {"c", "f"}


@pytest.fixture(params=["test_vit", "test_convnext", "mobilenetv2_035", "resnet10t"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 32} if request.param == "test_vit" else {}
    found: nn.Module = timm.create_model(request.param, num_classes=5, **size)
    return randomize(found).double()


def images_and_labels() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])


def bodies_of(model: nn.Module) -> dict[str, str]:
    return {name: block.body for name, block in progressive_blocks(make_progressive(model)).items()}


def test_the_gates_of_a_model_learn_by_what_their_blocks_change(model: nn.Module) -> None:
    """By finite differences of the soft gates, every family's fades and shrinking kernels included."""
    gated = LayerFolding().chooser(model, bodies_of(model)).eval()
    images, labels = images_and_labels()
    gates = {name: getattr(block, PARAMETER) for name, block in progressive_blocks(gated).items()}
    for number, gate in enumerate(gates.values()):
        gate.data.fill_((0.1 + 0.05 * number) / RATE)
    losses = soft_gate_losses()

    def total() -> Tensor:
        (loss,) = losses(gated, images, labels, 0)
        return loss

    found = torch.autograd.grad(total(), list(gates.values()))
    for gate, gradient in zip(list(gates.values())[:3], found, strict=False):
        step = 1e-8  # so that few kinks of ReLU6 lie between
        values = []
        for sign in (1, -1):
            gate.data += sign * step
            values.append(float(total().detach()))
            gate.data -= sign * step
        assert float(gradient) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-5)


def test_the_pull_of_layer_folding(model: nn.Module) -> None:
    gated = LayerFolding().chooser(model, bodies_of(model)).eval()
    images, labels = images_and_labels()
    gates = [getattr(block, PARAMETER) for block in progressive_blocks(gated).values()]
    gates[0].data.fill_(-0.5)  # kept at 0 or above
    (loss,) = soft_gate_losses()(gated, images, labels, 0)
    with torch.no_grad():
        set_lambda(gated, 0.0)
        plain = nn.functional.cross_entropy(gated(images), labels)
    assert float(loss.detach()) == pytest.approx(float(plain) + PULL * len(gates), rel=1e-12)
    assert float(gates[0].detach()) == 0.0
    gates[0].data.fill_(1.5 / RATE)
    (loss,) = soft_gate_losses()(gated, images, labels, 0)
    assert float(gates[0].detach()) == pytest.approx(1.5 / RATE)  # nothing holds it below 1 but the term


@pytest.mark.parametrize("published", [False, True])
def test_depthshrinker_prunes_its_number_in_every_step_and_favours_what_saves(
    model: nn.Module, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthshrinker, "PUBLISHED_SIGN", published)
    gated = DepthShrinker().chooser(model, bodies_of(model)).eval()
    blocks = progressive_blocks(gated)
    gates = {name: getattr(block, PARAMETER) for name, block in blocks.items()}
    values = torch.rand(len(gates), generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    for gate, value in zip(gates.values(), values, strict=True):
        gate.data.fill_(float(value) / RATE)
    saved = {name: 1000.0 * number for number, name in enumerate(gates)}
    images, labels = images_and_labels()
    count = max(1, len(gates) // 2)
    losses = hard_gate_losses(saved, count, seed=0)
    (loss,) = losses(gated, images, labels, 0)
    pruned = [name for name, block in blocks.items() if block.lam.pruned]  # type: ignore[union-attr]
    assert set(pruned) == set(sorted(gates, key=lambda name: -float(gates[name].detach()))[:count])
    loss.backward()
    with torch.no_grad():
        set_lambda(gated, 1.0, pruned)
        plain = nn.functional.cross_entropy(gated(images), labels)
    sign = 1 if published else -1
    term = sum(1e-4 * saved[name] * RATE * float(gate.detach()) for name, gate in gates.items())
    assert float(loss.detach()) == pytest.approx(float(plain) + sign * term, rel=1e-12)
    # Every gate has a gradient, of kept blocks too; and a saving changes it by itself alone.
    with_saving = {name: float(gate.grad) for name, gate in gates.items()}  # type: ignore[arg-type]
    assert all(value != 0 for value in with_saving.values())
    for gate in gates.values():
        gate.grad = None
    (loss,) = hard_gate_losses(dict.fromkeys(saved, 0.0), count, seed=0)(gated, images, labels, 0)
    loss.backward()
    without = {name: float(gate.grad) for name, gate in gates.items()}  # type: ignore[arg-type]
    for name, gradient in with_saving.items():
        assert gradient - without[name] == pytest.approx(sign * 1e-4 * saved[name] * RATE, rel=1e-6, abs=1e-9)


def test_gates_are_held_between_0_and_1(model: nn.Module) -> None:
    gated = DepthShrinker().chooser(model, bodies_of(model))
    for number, block in enumerate(progressive_blocks(gated).values()):
        getattr(block, PARAMETER).data.fill_(number - 1.0)
    clamp_gates(gated)
    assert all(0 <= float(value.detach()) <= 1 for value in gate_values(gated).values())


def test_folding_keeps_the_weights_that_the_gates_were_trained_with(model: nn.Module) -> None:
    bodies = bodies_of(model)
    gated = randomize(LayerFolding().chooser(model, bodies), 7).double().eval()
    chosen = list(bodies)[::2]
    subnet = make_progressive(model, {name: bodies[name] for name in chosen}).eval()
    subnet.load_state_dict(folded_state(gated.state_dict(), subnet, list(bodies)))
    images, _ = images_and_labels()
    for each in (gated, subnet):
        set_lambda(each, 1.0, chosen)
    with torch.no_grad():
        wanted = gated(images)
        assert float((subnet(images) - wanted).abs().max() / wanted.abs().max()) < 1e-12
