"""A sixth operator from outside the package: one class, a rule that uses it, a backend that runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import updp_rt
from tests.runtime.test_engines import Counted
from updp_rt import ops
from updp_rt.backends import BACKENDS, Backend, Prepared
from updp_rt.ops import OPERATORS, Problem, RowOperator, Weights
from updp_rt.ops.checks import check_rows, check_shape
from updp_rt.ops.library import call
from updp_rt.ops.operator import Shapes
from updp_rt.runtime.fused import Fusion, Rule
from updp_rt.runtime.rules import RULES

pytestmark = pytest.mark.usefixtures("own_table")


class GatedLinear(RowOperator):
    """``(x @ weight.T + bias) * tanh(gate)``: x ``[..., K]``, gate and result ``[..., N]``."""

    name = "toy_gated_linear"
    schema = "(Tensor x, Tensor gate, Tensor weight, Tensor? bias, float sharpness, Tensor? scale=None) -> Tensor"
    inputs = ("x", "gate")
    weights = ("weight", "bias")
    folds = ("scale",)
    examples = ({"x": (5, 7), "gate": (5, 3), "weight": (3, 7), "sharpness": 2.0},)

    def plain(self, x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor | None, sharpness: float) -> Tensor:
        return nn.functional.linear(x, weight, bias) * torch.tanh(sharpness * gate)

    def check_shapes(self, shapes: Shapes, attributes: Mapping[str, Any]) -> None:
        check_rows("x", shapes["x"])
        check_shape("gate", shapes["gate"], self.output_shape(shapes, attributes))

    def output_shape(self, shapes: Shapes, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        return (*shapes["x"][:-1], shapes["weight"][0])

    def flops(self, problem: Problem) -> int:
        return 2 * problem.x[0] * problem.x[1] * problem.output[1]

    def sum_length(self, problem: Problem) -> int:
        return problem.x[1]

    def fold(self, weights: Weights, folds: tuple[Any, ...]) -> Weights:
        weight, bias = weights
        return weight * folds[0][:, None], None if bias is None else bias * folds[0]


class ToyBackend(Backend):
    """Runs it and nothing else."""

    name = "toy"
    sources = ("ops/operator.py",)
    calls = 0

    def supports(self, problem: Problem) -> tuple[bool, str]:
        return problem.operator.name == GatedLinear.name, "only the toy runs here"

    def prepare(self, problem: Problem, weights: Weights, config: str) -> Prepared:
        weight, bias = weights
        packed = weight.t().contiguous()

        def call(x: Tensor, gate: Tensor) -> Tensor:
            self.calls += 1
            y = x @ packed if bias is None else x @ packed + bias
            return y.mul_(torch.tanh(problem["sharpness"] * gate))

        return call


class Gate(nn.Module):
    """What a user has."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.scale, self.sharpness = nn.Linear(6, 4), nn.Parameter(torch.rand(4) + 0.5), 1.5

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.proj(x) * self.scale * torch.tanh(self.sharpness * gate)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = Gate(), nn.Sequential(nn.Flatten(), nn.Linear(4 * 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(x, x[..., :4]))


class GateRule(Rule):
    source = (Gate,)

    def plan(self, module: Any, fusion: Fusion) -> None:
        proj = fusion.absorb("proj")
        tensors = {"weight": (proj, "weight"), "bias": (proj, "bias"), "scale": (module, "scale")}
        fusion.site("proj", OPERATORS[GatedLinear.name], tensors, sharpness=module.sharpness)

    def run(self, module: Any, fusion: Fusion, x: Tensor, gate: Tensor) -> Tensor:
        return fusion.sites["proj"](x, gate)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyBackend]:
    """The operator stays known to torch for good, as every library's does; all else goes."""
    operator = _registered()
    backend = ToyBackend()
    monkeypatch.setitem(OPERATORS, operator.name, operator)
    monkeypatch.setitem(RULES, Gate, GateRule())
    # Before the reference, the surest.
    order = {name: BACKENDS[name] for name in BACKENDS}
    BACKENDS.clear()
    BACKENDS.update({backend.name: backend} | order)
    yield backend
    del BACKENDS[backend.name]


_once: list[GatedLinear] = []


def _registered() -> GatedLinear:
    if not _once:
        _once.append(ops.register(GatedLinear()))
        del OPERATORS[GatedLinear.name]
    return _once[0]


@torch.no_grad()
def test_it_is_dispatched_verified_explained_and_compiled(toy: ToyBackend, tmp_path: Path) -> None:
    source, x = Gated().eval(), torch.randn(2, 5, 6)
    fast = updp_rt.accelerate(source, x, backends=["toy", "vendor", "reference"], strict=True, certify=True)
    assert torch.allclose(fast(x), source(x), atol=1e-5)
    assert toy.calls

    (row,) = (row for row in updp_rt.explain(fast).rows if row.module == "gate")
    assert row.operator == "toy_gated_linear"
    assert set(row.times_ms) == {"toy", "reference"}
    assert row.refused["vendor"]
    assert row.flops == 2 * 10 * 6 * 4
    assert "toy_gated_linear 10x6 4x6 gate s1.5 float32 cpu" in str(updp_rt.explain(fast).to_dict())

    certificate = updp_rt.verify(source, fast, x)
    assert certificate.passed
    (module,) = (module for module in certificate.modules if module.name == "gate")
    assert {case.inputs for case in module.cases} >= {"seen", "large", "denormal", "one-hot"}

    backend = Counted()
    torch.compiler.reset()
    compiled = torch.compile(fast, backend=backend, fullgraph=True)
    assert torch.allclose(compiled(x), source(x), atol=1e-5)
    assert any("toy_gated_linear" in name for name in backend.operators)
    for each in (source, fast):
        each.gate.scale.mul_(2)
        each.gate.sharpness = 0.5
    assert torch.allclose(compiled(x), source(x), atol=1e-5)
    assert torch.allclose(fast(x), source(x), atol=1e-5)
    torch.compiler.reset()

    exported = torch.export.export(fast, (x,))
    assert not any("updp_rt" in str(node.target) for node in exported.graph.nodes)
    assert torch.allclose(exported.module()(x), source(x), atol=1e-5)
    with FlopCounterMode(display=False) as mine, FlopCounterMode(display=False) as theirs:
        fast(x)
    assert mine.get_total_flops() == theirs.get_total_flops() >= row.flops
    assert torch.equal(updp_rt.restore(fast)(x), source(x))


@torch.no_grad()
def test_it_is_called_through_torch(toy: ToyBackend) -> None:
    x, gate, weight, scale = torch.randn(5, 7), torch.randn(5, 3), torch.randn(3, 7), torch.rand(3)
    wanted = x @ weight.T * scale * torch.tanh(2 * gate)
    assert torch.allclose(torch.ops.updp_rt.toy_gated_linear(x, gate, weight, None, 2.0, scale), wanted, atol=1e-5)
    meta = (t.to("meta") for t in (x, gate, weight))
    assert torch.ops.updp_rt.toy_gated_linear(*meta, None, 2.0).shape == (5, 3)
    with torch.enable_grad():
        y = torch.ops.updp_rt.toy_gated_linear(x.requires_grad_(), gate, weight, None, 2.0)
        with pytest.raises(ops.InferenceOnlyError, match="have no gradient"):
            y.sum().backward()


def test_a_name_is_given_once(toy: ToyBackend) -> None:
    with pytest.raises(ValueError, match="there is an operator 'toy_gated_linear' already"):
        ops.register(GatedLinear())


@torch.no_grad()
def test_a_wrong_backend_is_demoted(toy: ToyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToyBackend, "prepare", lambda *_: lambda x, gate: gate * 1.0)
    source, x = Gated().eval(), torch.randn(2, 5, 6)
    with pytest.raises(updp_rt.AccelerationError, match="toy is not fit"):
        updp_rt.accelerate(source, x, strict=True)
    fast = updp_rt.accelerate(source, x)
    assert torch.allclose(fast(x), source(x), atol=1e-5)
    (row,) = (row for row in updp_rt.explain(fast).rows if row.module == "gate")
    assert row.kernel == "reference"
    assert "above the bound" in row.demoted["toy"]


class FirstCompiled(GatedLinear):
    name = "toy_first_compiled"


def test_its_first_call_of_all_may_be_a_compiled_one() -> None:
    operator = ops.register(FirstCompiled())
    del OPERATORS[operator.name]
    arguments = torch.randn(5, 7), torch.randn(5, 3), torch.randn(3, 7), None, 2.0
    torch.compiler.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def compiled(x: Tensor) -> Tensor:
        return call(operator, x, *arguments[1:])

    with torch.no_grad():
        assert torch.allclose(compiled(arguments[0]), operator.plain(*arguments), atol=1e-5)
