"""Ways to run a whole accelerated model, compiled and exported programs among them."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

import updp_rt
from tests.processes import finish, start
from tests.runtime.small import assert_same, small_model, twins
from updp_rt.ops import kept_operators
from updp_rt.runtime import bound, memory
from updp_rt.runtime.engines import ENGINES, engine_of
from updp_rt.runtime.engines.base import state_of
from updp_rt.runtime.fused import fused_modules


class Counted:
    """A backend of torch.compile that counts what it is given, and runs it as it is."""

    def __init__(self) -> None:
        self.graphs, self.calls, self.operators = 0, 0, []  # type: ignore[var-annotated]

    def __call__(self, graph: fx.GraphModule, examples: list[Tensor], **_: Any) -> Any:
        self.graphs += 1
        self.operators += operators_in(graph.graph)

        def run(*args: Any) -> Any:
            self.calls += 1
            return graph.forward(*args)

        return run


def operators_in(graph: fx.Graph) -> list[str]:
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    return [str(target) for target in targets if str(target).startswith(("updp_rt", "torch.ops.updp_rt"))]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    """The compiled engine, compiling by a backend that takes no time."""
    backend, compile_ = Counted(), torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda f, **options: compile_(f, backend=backend, **options))
    yield backend
    torch.compiler.reset()


def assert_compiled_only_when_asked(counted: Counted, fast: Any, source: Any, images: Tensor) -> None:
    """That the modules run until `prewarm`, and a program after it."""
    before = counted.calls
    assert_same(fast, source, images)
    assert counted.calls == before
    updp_rt.prewarm(fast, images)
    before = counted.calls
    assert_same(fast, source, images)
    assert counted.calls == before + 1


def compiled_twins(model: nn.Module | None = None) -> tuple[Any, Any, Tensor]:
    return twins(model, engine="compiled")


@torch.no_grad()
def test_a_compiled_model_is_the_same_drop_in(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    before = counted.calls
    assert_same(fast, source, images)
    assert counted.calls == before + 1, "it ran compiled"
    assert len(set(counted.operators)) == 2, "convolutions and the linear layer stay fused"
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in source.named_modules()]
    assert all(isinstance(mine, type(theirs)) for mine, theirs in zip(fast.modules(), source.modules(), strict=True))
    assert list(fast.state_dict()) == list(source.state_dict())
    fast.load_state_dict(source.state_dict())
    back = updp_rt.restore(fast)
    assert [type(m) for m in back.modules()] == [type(m) for m in source.modules()]
    assert [set(vars(m)) for m in back.modules()] == [set(vars(m)) for m in source.modules()]
    assert_same(back, source, images)
    assert engine_of(back) == "modules"


def test_a_program_that_takes_more_than_is_allowed_is_not_kept(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "resident_bytes", lambda: 3_000_000 * counted.graphs)
    source, fast, images = compiled_twins()
    state = state_of(fast)
    assert state is not None
    assert (state.bytes, state.seconds > 0) == (3_000_000, True)
    state.allowed = 4e6
    with pytest.raises(updp_rt.AccelerationError, match="it takes 6 MB of memory, and 4 are allowed"):
        updp_rt.prewarm(fast, images[:1])
    assert state.bytes == 3_000_000
    calls = counted.calls
    assert_same(fast, source, images[:1])
    assert counted.calls == calls


def test_inputs_may_be_made_in_any_mode_and_served_in_any_other(counted: Counted) -> None:
    compiled_twins()  # so that the one to follow is not the first
    source, fast, images = compiled_twins()
    with torch.inference_mode():
        made_inside = images.clone()
    graphs = counted.graphs
    for x in (images, made_inside):
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                before = counted.calls
                assert_same(fast, source, x)
                assert counted.calls == before + 1
                assert fast(x).is_inference() == (mode is torch.inference_mode)
    assert counted.graphs == graphs, "one program serves all"


@torch.no_grad()
def test_operators_without_weights_keep_to_the_models_backends(counted: Counted) -> None:
    """Attention has no weights by which to tell whose it is."""
    vit = VisionTransformer(16, 4, num_classes=3, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2).eval()
    images = torch.randn(2, 3, 16, 16)
    alone = updp_rt.accelerate(vit, images, engine="compiled", backends=["reference"])
    every = updp_rt.accelerate(vit, images, engine="compiled")
    asked: list[Any] = []
    choose = bound.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bound,
            "choose",
            lambda problem, w, x, policy, p: [asked.append(policy.backends)] and choose(problem, w, x, policy, p),
        )
        updp_rt.prewarm(alone, torch.randn(3, 3, 16, 16))
        assert set(asked) == {("reference",)}
        asked.clear()
        updp_rt.prewarm(every, torch.randn(3, 3, 16, 16))
        assert set(asked) == {None}


@torch.no_grad()
def test_what_it_cannot_see_is_run_by_the_modules(counted: Counted) -> None:
    source, fast, images = compiled_twins()

    def runs_compiled() -> bool:
        before = counted.calls
        assert_same(fast, source, images)
        return counted.calls > before

    assert runs_compiled()
    seen: list[str] = []
    for place in (fast[1].conv1, fast[2][0], fast[0]):
        handle = place.register_forward_hook(lambda m, a, y: seen.append("hook"))
        assert not runs_compiled()
        handle.remove()
    assert seen == ["hook"] * 3
    handle = nn.modules.module.register_module_forward_pre_hook(lambda m, a: None)
    assert not runs_compiled()
    handle.remove()
    fast[1].bn1.train()
    source[1].bn1.train()
    assert not runs_compiled()
    fast.eval()
    source.eval()
    assert runs_compiled()
    other = torch.randn(3, 3, 8, 8)
    assert_compiled_only_when_asked(counted, fast, source, other)


@torch.no_grad()
def test_changed_weights_and_parts_are_followed(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    for change in (
        lambda each: each[1].conv1.weight.mul_(1.5),
        lambda each: each[0][1].running_mean.add_(0.5),
        lambda each: setattr(each[2][0], "weight", nn.Parameter(each[2][0].weight * 2)),
        lambda each: each.load_state_dict({k: v * 1 for k, v in source.state_dict().items()}, assign=True),
        lambda each: setattr(each[1], "act1", nn.SiLU()),
        lambda each: setattr(each[1].bn1, "eps", 0.5),
        lambda each: each[0].append(nn.Tanh()),
        lambda each: setattr(each[2], "1", nn.ReLU6()),
    ):
        for each in (source, fast):
            change(each)
        assert_same(fast, source, images)


class ReadsMore(nn.Module):
    """A model whose code reads values in all the places where people keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.pool, self._scale, self.p = small_model(), nn.AvgPool2d(3, 1, 1), 1.0, 1.0
        self.config, self.options, self.steps = {"scale": 1.0}, SimpleNamespace(scale=1.0), [1.0]

    def forward(self, x: Tensor) -> Tensor:
        scale = self._scale * self.p * self.config["scale"] * self.options.scale * self.steps[0] * _FACTOR
        return self.net(self.pool(x) * scale)


_FACTOR = 1.0


@torch.no_grad()
def test_values_that_a_program_has_read_are_followed(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    source, fast, images = compiled_twins(ReadsMore())
    set_factor = partial(monkeypatch.setattr, f"{__name__}._FACTOR")
    for change, undo in (
        (lambda m: setattr(m, "_scale", 3.0), lambda m: setattr(m, "_scale", 1.0)),
        (lambda m: setattr(m, "p", 3.0), lambda m: setattr(m, "p", 1.0)),
        (lambda m: m.config.update(scale=3.0), lambda m: m.config.update(scale=1.0)),
        (lambda m: setattr(m.options, "scale", 3.0), lambda m: setattr(m.options, "scale", 1.0)),
        (lambda m: m.steps.__setitem__(0, 3.0), lambda m: m.steps.__setitem__(0, 1.0)),
        (lambda m: m.pool.__dict__.update(kernel_size=5, padding=2), lambda m: m.pool.__init__(3, 1, 1)),
        (lambda m: setattr(m.pool, "__class__", Halved), lambda m: setattr(m.pool, "__class__", nn.AvgPool2d)),
        (lambda m: set_factor(3.0), lambda m: set_factor(1.0)),
    ):
        wanted = source(images)
        for each in (source, fast):
            change(each)
        assert not torch.allclose(source(images), wanted)
        assert_same(fast, source, images)
        for each in (source, fast):
            undo(each)
            each.eval()
        before = counted.calls
        assert_same(fast, source, images)
        assert counted.calls == before + 1, "as it was, it runs compiled"


class Halved(nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


@torch.no_grad()
def test_a_refreshed_model_is_compiled_again_when_asked(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    source, fast, images = compiled_twins(nn.Sequential(small_model(), nn.Softplus()))
    plain: Any = nn.Softplus.forward
    monkeypatch.setattr(nn.Softplus, "forward", lambda self, x: plain(self, x) / 2)
    updp_rt.refresh(fast)
    assert_compiled_only_when_asked(counted, fast, source, images)


@torch.no_grad()
def test_hooks_of_parts_that_came_later_fire(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    fast[1].act1, source[1].act1 = nn.SiLU(), nn.SiLU()
    fast[2][1], source[2][1] = nn.ReLU6(), nn.ReLU6()
    assert_same(fast, source, images)
    seen: list[str] = []
    fast[1].act1.register_forward_hook(lambda m, a, y: seen.append("absorbed"))
    fast[2][1].register_forward_hook(lambda m, a, y: seen.append("beside"))
    assert_same(fast, source, images)
    assert seen == ["absorbed", "beside"]
    fast[2][1].train()
    fast.eval()
    assert_same(fast, source, images)


@torch.no_grad()
def test_slices_run_by_their_modules(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    assert_same(fast[:1], source[:1], images)


def test_training_runs_and_is_followed(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    for each in (source, fast):
        each.train()
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.01, fused=True)
        each(images).square().mean().backward()
        optimizer.step()
        each.eval()
    assert_same(fast, source, images)
    assert counted.calls >= 1


@torch.no_grad()
def test_copies_run_by_their_modules(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert engine_of(other) == "modules"
        assert list(fused_modules(other))
        assert_same(other, source, images)
    assert engine_of(fast) == "compiled"


@torch.no_grad()
def test_reports_name_the_engine(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    assert updp_rt.explain(fast).engine == "compiled"
    certificate = updp_rt.verify(source, fast, images)
    assert certificate.passed
    assert certificate.engine == "compiled"
    assert updp_rt.explain(updp_rt.accelerate(source, images)).engine == "modules"


def test_an_unknown_engine_and_one_that_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_model().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="unknown engine 'onnx': choose among modules, compiled"):
        updp_rt.accelerate(model, images, engine="onnx")
    monkeypatch.setattr(type(ENGINES["compiled"]), "supports", lambda *_: (False, "no compiler"))
    with pytest.raises(updp_rt.AccelerationError, match="engine 'compiled' cannot run this model here: no compiler"):
        updp_rt.accelerate(model, images, engine="compiled", inplace=True)
    assert not list(fused_modules(model))


@torch.no_grad()
def test_a_compiled_model_stays_fused() -> None:
    _, fast, images = twins()
    torch.compiler.reset()
    backend = Counted()
    torch.compile(fast, backend=backend, fullgraph=True)(images)
    assert len(backend.operators) == 5  # the stem's, two of the block, the single convolution, the linear layer
    torch.compiler.reset()


@torch.no_grad()
def test_exports_to_torchs_operators_or_to_ours() -> None:
    source, fast, images = twins()
    plain = torch.export.export(fast, (images,))
    with kept_operators():
        kept = torch.export.export(fast, (images,))
    assert len(operators_in(plain.graph)) == 0
    assert len(operators_in(kept.graph)) == 5
    for program in (plain, kept):
        assert_same(program.module(), source, images)
    batch = torch.export.Dim("batch", min=1, max=64)
    anywhere = torch.export.export(fast, (images,), dynamic_shapes=({0: batch},))
    assert_same(anywhere.module(), source, torch.randn(5, 3, 8, 8))
    assert_same(fast, source, images)


@pytest.mark.slow
def test_two_processes_share_a_compilers_cache(tmp_path: Path) -> None:
    """Models that differ only in their width, in both orders: neither may be taken for the other."""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for turns in (((4, first), (6, second)), ((6, first), (4, second))):
        finish(start(_compile_in_turn, turns))


def _compile_in_turn(turns: tuple[tuple[int, str], ...]) -> None:
    """Compile models of some widths, each with a cache folder that another process may have filled."""
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    for width, folder in turns:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        torch.compiler.reset()
        torch.manual_seed(width)
        # One fused operator and nothing beside it: there is no code that a C++ compiler would have to build.
        source, fast, images = twins(
            nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()), backends=["reference"]
        )
        with torch.no_grad():
            assert_same(torch.compile(fast), source, images)


@torch.no_grad()
def test_programs_are_for_strides_and_dtypes_too(counted: Counted) -> None:
    source, fast, images = compiled_twins()
    calls = counted.calls
    assert_same(fast, source, images.to(memory_format=torch.channels_last))
    assert counted.calls == calls
    apart = torch.randn(2, 3, 8, 16)[..., ::2]
    assert_same(fast, source, apart)
    updp_rt.prewarm(fast, apart)
    assert_same(fast, source, apart)
    source.double(), fast.double()
    assert not fast.__dict__["_updp_rt_engine"].serves(fast, (images,), {})
    assert torch.allclose(fast(images.double()), source(images.double()))
