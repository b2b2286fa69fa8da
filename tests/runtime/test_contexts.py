"""An accelerated model in the hands of others: callers of its parts, tracers, counters, names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from timm.models import create_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

import updp_rt
from tests.runtime.small import assert_same, small_model, small_resnet, twins
from updp_rt.blocks.randomize import randomize
from updp_rt.runtime.fused import fused_modules

ONEDNN = ["onednn", "reference"]


def small_mobilenet() -> Any:
    return randomize(create_model("test_efficientnet", num_classes=5).eval(), seed=1)


# Chains, called by others than their owner


class Wrapper(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        stem = net.conv1
        self.net, self.depth = net, nn.Conv2d(1, stem.out_channels, stem.kernel_size, stem.stride, stem.padding)


class SumBeforeNorm(Wrapper):
    """Depth joins colour between a stem's convolution and its norm."""

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = net.act1(net.bn1(net.conv1(x[:, :3]) + self.depth(x[:, 2:])))
        return net.forward_head(net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(x))))))


class NormOfAnother(Wrapper):
    """A stem's norm is used on something else than its convolution gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net.bn1(self.depth(x[:, 2:])) + self.net.conv1(x[:, :3])


class PartsOfBlocks(Wrapper):
    """Perceptual losses, style features and the like read a block's layers one by one."""

    def forward(self, x: Tensor) -> Tensor:
        block = self.net.layer1[0]
        y = block.conv1(self.net.maxpool(self.net.conv1(x[:, :3])))
        return block.bn2(y) + block.act1(block.bn1(block.conv2(y))) + block(y)


class StemTwice(Wrapper):
    def forward(self, x: Tensor) -> Tensor:
        return self.net.forward_features(x[:, :3]) + self.net.forward_features(x[:, :3].flip(-1))


@pytest.mark.parametrize("wrapper", [SumBeforeNorm, NormOfAnother, PartsOfBlocks, StemTwice])
def test_parts_called_by_others_compute_what_they_say(wrapper: type[Wrapper]) -> None:
    net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(64, 8, 8, 8))
    source = randomize(wrapper(net).eval(), seed=1)
    images = torch.randn(2, 3, 32, 32)
    fast = updp_rt.accelerate(source, images, backends=ONEDNN, certify=wrapper is SumBeforeNorm)
    assert_same(fast, source, images)


@torch.no_grad()
def test_a_slice_and_a_sublayer_of_a_sequence_compute_what_they_say() -> None:
    source, fast, images = twins()
    for cut in (slice(0, 1), slice(1, None), slice(0, 2)):
        assert_same(fast[0][cut], source[0][cut], images if cut.start == 0 else torch.randn(2, 8, 8, 8))
    stem = [nn.Sequential(*list(each[0])[::2]).eval() for each in (fast, source)]
    assert_same(*stem, images)


@torch.no_grad()
def test_intermediate_features_are_the_sources() -> None:
    for source in (small_resnet(), small_mobilenet()):
        images = torch.randn(2, 3, 32, 32)
        fast = updp_rt.accelerate(source, images, backends=ONEDNN)
        mine, theirs = (each.forward_intermediates(images, intermediates_only=True) for each in (fast, source))
        for found, wanted in zip(mine, theirs, strict=True):
            assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


# torch.compile


@pytest.fixture
def compiled() -> Iterator[Callable[[Any], Any]]:
    torch.compiler.reset()
    yield lambda module: torch.compile(module, backend="eager", dynamic=False)
    torch.compiler.reset()


@torch.no_grad()
def test_hooks_inside_what_is_compiled_fire(compiled: Callable[[Any], Any]) -> None:
    _, fast, images = twins()
    calls: list[str] = []
    fast[1].conv1.register_forward_hook(lambda m, a, y: calls.append("conv"))
    fast[0][1].register_forward_pre_hook(lambda m, a: calls.append("norm"))
    fast[2][0].register_forward_hook(lambda m, a, y: calls.append("layer"))
    run = compiled(fast)
    run(images)
    run(images)
    assert calls == ["norm", "conv", "layer"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("place", [(1, "act1"), (0, "2"), (1, "bn1")], ids=str)
@torch.no_grad()
def test_replaced_parts_are_compiled(compiled: Callable[[Any], Any], place: tuple[int, str]) -> None:
    source, fast, images = twins()
    run = compiled(fast)
    assert_same(run, source, images)
    owner, name = place
    old = getattr(fast[owner], name)
    new = nn.SiLU() if isinstance(old, nn.ReLU) else randomize(copy.deepcopy(old), seed=9)
    for each in (source, fast):
        each[owner]._modules[name] = new
    assert_same(run, source, images)
    source[owner]._modules[name] = fast[owner]._modules[name] = old
    assert_same(run, source, images)


@torch.no_grad()
def test_attributes_and_weights_that_change_are_followed_when_compiled(compiled: Callable[[Any], Any]) -> None:
    source, fast, images = twins()
    run = compiled(fast)
    assert_same(run, source, images)
    for change in (
        lambda each: setattr(each[1].bn1, "eps", 0.5),
        lambda each: setattr(each[0][0], "weight", nn.Parameter(each[0][0].weight * 2)),
        lambda each: each[1].conv1.weight.mul_(1.5),
        lambda each: each.load_state_dict({k: v.clone() for k, v in small_twin().state_dict().items()}, assign=True),
    ):
        for each in (source, fast):
            change(each)
        assert_same(run, source, images)


def small_twin() -> nn.Module:
    torch.manual_seed(3)
    return randomize(small_model(), seed=4)


def test_training_a_compiled_model_trains_the_source(compiled: Callable[[Any], Any]) -> None:
    source, fast, images = twins()
    run = compiled(fast)
    for each, call in ((source, source), (fast, run)):
        each.train()
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        call(images).square().mean().backward()
        optimizer.step()
        each.eval()
    assert_same(run, source, images)
    assert torch.allclose(fast[1].bn1.running_mean, source[1].bn1.running_mean, atol=1e-5)


# Counters and hooks on every module


@torch.no_grad()
def test_flops_are_counted_as_of_the_source() -> None:
    resnet, images = small_resnet(), torch.randn(2, 3, 32, 32)
    vit = create_model("test_vit", img_size=32, num_classes=5).eval()
    for source in (resnet, vit):
        fast = updp_rt.accelerate(source, images, backends=ONEDNN)
        totals = []
        for each in (source, fast):
            with FlopCounterMode(display=False) as counter:
                each(images)
            totals.append(counter.get_total_flops())
        assert totals[0] == totals[1] > 0


def test_the_operators_themselves_count_their_flops() -> None:
    x, w = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 3, 3)
    with FlopCounterMode(display=False) as counter:
        torch.ops.updp_rt.conv2d(x, w, None, None, "relu", [1, 1], [1, 1], 1)
        torch.ops.updp_rt.linear(torch.randn(3, 5), torch.randn(7, 5), None, None, "none")
    assert counter.get_total_flops() == 2 * 2 * 6 * 8 * 8 * 4 * 9 + 2 * 3 * 5 * 7


@contextmanager
def on_every_module(kind: str, hook: Callable[..., None]) -> Iterator[None]:
    handle = getattr(nn.modules.module, f"register_module_{kind}")(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook"])
@torch.no_grad()
def test_hooks_on_every_module_see_every_call(kind: str) -> None:
    source, fast, images = twins()
    names = []
    for each in (source, fast):
        seen: list[str] = []
        known = {module: name for name, module in each.named_modules()}
        with on_every_module(kind, lambda module, *rest, seen=seen, known=known: seen.append(known[module])):
            each(images)
        names.append(seen)
    assert names[0] == names[1]
    assert_same(fast, source, images)


# Tracers


@torch.no_grad()
def test_tracers_see_the_source() -> None:
    source, fast, images = twins()
    assert_same(torch.jit.trace(fast, images), source, images)
    assert_same(torch.fx.symbolic_trace(fast), source, images)
    resnet = small_resnet()
    big = torch.randn(2, 3, 32, 32)
    quick = updp_rt.accelerate(resnet, big, backends=ONEDNN)
    nodes = ["layer1.0.act2", "layer2"]
    mine, theirs = (create_feature_extractor(each, nodes)(big) for each in (quick, resnet))
    for node in nodes:
        assert torch.allclose(mine[node], theirs[node], atol=1e-4 * float(theirs[node].abs().max()))


@torch.no_grad()
def test_scripting_says_what_to_script() -> None:
    source, fast, images = twins()
    with pytest.raises(TypeError, match=r"script updp_rt\.restore\(model\)"):
        torch.jit.script(fast)
    assert_same(torch.jit.script(updp_rt.restore(fast)), source, images)


@torch.no_grad()
def test_fake_and_meta_tensors_have_the_shapes_of_the_source() -> None:
    source, fast, images = twins()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert fast(mode.from_tensor(images)).shape == source(images).shape
    meta = copy.deepcopy(fast).to("meta")
    assert meta(images.to("meta")).shape == source(images).shape
    assert_same(fast, source, images)


@torch.no_grad()
def test_function_transforms_run_the_source() -> None:
    source, fast, images = twins()
    assert torch.allclose(torch.func.vmap(fast)(images[:, None])[:, 0], source(images), atol=1e-3)
    stacked = {k: torch.stack([v, v * 1.5]) for k, v in source.named_parameters()}

    def call(each: nn.Module) -> Tensor:
        ensemble = torch.func.vmap(lambda p: torch.func.functional_call(each, p, (images,)))
        return ensemble(stacked)

    assert torch.allclose(call(fast), call(source), rtol=1e-4, atol=1e-3)
    tangent = torch.randn_like(images)
    mine, theirs = (torch.func.jvp(each, (images,), (tangent,))[1] for each in (fast, source))
    assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)
    assert_same(fast, source, images)


@torch.no_grad()
def test_a_subclass_of_tensor_runs_as_in_the_source() -> None:
    class Tagged(Tensor):
        pass

    source, fast, images = twins()
    found = fast(images.as_subclass(Tagged))
    assert type(found) is type(source(images.as_subclass(Tagged)))
    assert torch.allclose(found, source(images), rtol=1e-4, atol=1e-3)


# Names of users' own


class Named(nn.Module):
    """Children called as our own things are."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion, self.source, self.run = nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 8), nn.Conv2d(8, 8, 1)
        self.plan, self.sites, self.engine, self.owner = nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
        self.rule = self.method = self.policy = "mine"

    def forward(self, x: Tensor) -> Tensor:
        return self.owner(self.engine(self.sites(self.plan(self.run(self.source(self.fusion(x)))))))


@torch.no_grad()
def test_users_may_call_their_modules_as_they_like() -> None:
    source, fast, images = twins(Named())
    assert_same(fast, source, images)
    assert list(fast.state_dict()) == list(source.state_dict())
    back = updp_rt.restore(fast)
    assert not list(fused_modules(back))
    assert [set(vars(a)) == set(vars(b)) for a, b in zip(back.modules(), source.modules(), strict=True)]
    assert updp_rt.verify(source, fast, images).passed
    with pytest.raises(ValueError, match="is not accelerated"):
        updp_rt.restore(source)
    block = BasicBlock(8, 8).eval()
    block.fusion = block.plan = nn.Identity()
    block.sites = block.run = 3
    assert_same(updp_rt.accelerate(block, torch.randn(1, 8, 5, 5)), block, torch.randn(1, 8, 5, 5))


# Precisions that a model insists on


class Casting(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = small_model(), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.dtype))


class CastingLogits(Casting):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).float()


class CastingInside(Casting):
    """A fused block whose activation casts, as in mixed precision by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[1](self.net[0](x).to(self.dtype)))


@pytest.mark.parametrize(
    ("kind", "dtype", "reference"),
    [
        (Casting, torch.float32, "float32"),
        (CastingInside, torch.float32, "float32"),
        (CastingLogits, torch.float32, "float32"),
        (Casting, torch.bfloat16, "bfloat16"),
    ],
)
def test_models_that_cast_are_certified(kind: type[Casting], dtype: torch.dtype, reference: str) -> None:
    source = randomize(kind(dtype).eval(), seed=1).to(dtype)
    images = torch.randn(2, 3, 8, 8).to(dtype)
    fast = updp_rt.accelerate(source, images, backends=ONEDNN, certify=True)
    certificate = updp_rt.verify(source, fast, images)
    assert certificate.passed
    assert certificate.reference == reference


def test_inspect_takes_the_source() -> None:
    from updp_rt import inspect

    source = small_resnet()
    images = torch.randn(2, 3, 32, 32)
    fast = updp_rt.accelerate(source, images, backends=ONEDNN)
    assert str(inspect(fast)) == str(inspect(source))
