"""An accelerated model computes what its source does, and is its source in everything but speed."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import OrderedDict

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

import updp_rt
from tests.marks import slow
from tests.runtime.conftest import MODELS, model_and_images
from updp_rt.blocks.randomize import randomize
from updp_rt.runtime.fused import Fused, fused_modules


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


@torch.no_grad()
def assert_as_good_as(fast: nn.Module, source: nn.Module, images: Tensor) -> None:
    """At most twice the source's own error against float64, and a few eps."""
    exact = copy.deepcopy(source).double()(images.double())
    allowed = 2 * relative(source(images), exact) + 8 * torch.finfo(images.dtype).eps
    assert relative(fast(images), exact) <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.bfloat16)])
@pytest.mark.parametrize("name", MODELS)
def test_computes_what_the_source_does(name: str, dtype: torch.dtype) -> None:
    model, images = model_and_images(name, dtype=dtype)
    fast = updp_rt.accelerate(model, images)
    assert_as_good_as(fast, model, images)
    assert not any(isinstance(module, Fused) for module in model.modules()), "the source must stay as it was"
    assert_nothing_is_left_unfused(fast)


def assert_nothing_is_left_unfused(fast: nn.Module) -> None:
    """Each convolution and linear layer is part of a fused operator."""
    covered = set()
    for _, module, fusion in fused_modules(fast):
        covered |= {id(module), *(id(member) for _, _, member, _ in fusion.members)}
    layers = [name for name, m in fast.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and id(m) not in covered]
    assert layers == []


def test_a_model_of_no_known_family_is_fused_layer_by_layer() -> None:
    relu = nn.ReLU()  # the same module twice
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), relu, nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.BatchNorm2d(12), nn.SiLU(),
        nn.Conv2d(12, 5, 1, bias=False), nn.BatchNorm2d(5), relu, nn.Conv2d(5, 5, 3, dilation=2), nn.Hardswish(),
        nn.Flatten(), nn.LazyLinear(7),
    )  # fmt: skip
    images = torch.randn(2, 3, 19, 23)
    model(images)
    randomize(model.eval(), seed=3)
    fast = updp_rt.accelerate(model, images)
    assert_as_good_as(fast, model, images)
    rows = updp_rt.explain(fast).rows
    # The dilated convolution stays as it is.
    assert [row.operator for row in rows] == ["conv2d", "conv2d", "conv2d", "max_pool", "linear"]
    acts = [row.problem.split(" s1x1")[0].split()[-1] for row in rows if row.operator == "conv2d"]
    assert acts == ["relu", "silu", "relu"]


def test_a_child_is_not_taken_for_one_of_its_name_inside_a_norm() -> None:
    layers = OrderedDict(conv=nn.Conv2d(3, 8, 3), bn=BatchNormAct2d(8), act=nn.Hardswish(), flat=nn.Flatten())
    model = randomize(nn.Sequential(layers).eval(), seed=4)
    images = torch.randn(2, 3, 9, 7)
    assert_as_good_as(updp_rt.accelerate(model, images), model, images)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "convnext", "vit-merged"])
def test_names_types_and_state_dict_are_the_sources(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in model.named_modules()]
    for mine, theirs in zip(fast.modules(), model.modules(), strict=True):
        assert isinstance(mine, type(theirs))
    assert list(fast.state_dict()) == list(model.state_dict())
    assert fast.state_dict()._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    for key, value in model.state_dict().items():
        assert torch.equal(fast.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "convnext-merged", "vit"])
def test_restore_gives_the_source_back_exactly(name: str) -> None:
    model, images = model_and_images(name)
    expected = model(images)
    fast = updp_rt.accelerate(model, images)
    back = updp_rt.restore(fast)
    assert isinstance(next(m for m in fast.modules() if isinstance(m, Fused)), Fused), "a copy is restored"
    for mine, theirs in zip(back.modules(), model.modules(), strict=True):
        assert type(mine) is type(theirs)
        assert set(vars(mine)) == set(vars(theirs))
    assert torch.equal(back(images), expected)


def test_in_place_changes_and_restores_the_very_model() -> None:
    model, images = model_and_images("resnet18")
    expected = model(images)
    modules = list(model.modules())
    assert updp_rt.accelerate(model, images, inplace=True) is model
    assert_as_good_as(model, updp_rt.restore(model), images)
    assert updp_rt.restore(model, inplace=True) is model
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert torch.equal(model(images), expected)


def test_errors_say_what_to_do() -> None:
    model, images = model_and_images("resnet18")
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        updp_rt.accelerate(copy.deepcopy(model).train(), images)
    with pytest.raises(ValueError, match="unknown backend 'cuda': choose among onednn, triton, hip, vendor, reference"):
        updp_rt.accelerate(model, images, backends=["cuda"])
    with pytest.raises(ValueError, match="nothing to restore"):
        updp_rt.restore(model)
    fast = updp_rt.accelerate(model, images)
    with pytest.raises(ValueError, match="accelerated already"):
        updp_rt.accelerate(fast, images)


def test_an_example_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    model, images = model_and_images("vit")
    with pytest.raises(AssertionError):
        updp_rt.accelerate(model, images[..., :-5], inplace=True)  # timm's own complaint about the size
    assert not any(isinstance(module, Fused) for module in model.modules())


def test_strict_raises_where_a_block_cannot_be_fused() -> None:
    model = timm.create_model("resnet18", num_classes=7, act_layer="mish").eval()
    images = torch.randn(1, 3, 40, 40)
    assert_as_good_as(updp_rt.accelerate(model, images), model, images)
    with pytest.raises(updp_rt.AccelerationError, match=r"ResNet cannot be fused: Mish.* is not an activation"):
        updp_rt.accelerate(model, images, strict=True)
    with pytest.raises(updp_rt.AccelerationError, match=r"1\.0 cannot be fused: Mish.* is not an activation"):
        updp_rt.accelerate(nn.Sequential(nn.Identity(), model.layer1).eval(), torch.randn(1, 64, 8, 8), strict=True)


@torch.no_grad()
def test_hooks_on_blocks_fire_and_hooks_inside_see_their_values() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    seen: dict[str, Tensor] = {}
    for owner, key in ((model, "source"), (fast, "fast")):
        owner.layer1[0].register_forward_hook(lambda m, a, y, key=key: seen.__setitem__(key, y.clone()))
        owner.layer2[0].bn1.register_forward_hook(lambda m, a, y, key=key: seen.__setitem__(f"{key} bn", y.clone()))
    assert torch.allclose(fast(images), model(images), atol=1e-4)
    assert torch.allclose(seen["fast"], seen["source"], atol=1e-4)
    assert torch.allclose(seen["fast bn"], seen["source bn"], atol=1e-4)


@torch.no_grad()
def test_a_hook_on_a_stem_that_was_fused_away_sees_its_values() -> None:
    model, images = model_and_images("mobilenetv2")
    fast = updp_rt.accelerate(model, images)
    seen: list[Tensor] = []
    handle = fast.bn1.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))
    assert torch.allclose(fast(images), model(images), atol=1e-4)
    assert torch.allclose(seen[0], model.conv_stem(images), atol=1e-4)
    handle.remove()
    assert torch.allclose(fast(images), model(images), atol=1e-4)
    assert len(seen) == 1


@torch.no_grad()
def test_a_replaced_part_is_used() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    new = nn.Conv2d(64, 64, 3, padding=1)
    model.layer1[0].conv1 = fast.layer1[0].conv1 = new
    assert torch.allclose(fast(images), model(images), atol=1e-4)


def test_training_runs_the_sources_code_and_later_inference_follows() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images)
    for each in (model, fast):
        each.train()
        optimizer = torch.optim.SGD(each.parameters(), lr=0.01)
        each(images).square().mean().backward()
        optimizer.step()
        each.eval()
    with torch.no_grad():
        assert torch.allclose(fast(images), model(images), atol=1e-3)
        assert torch.equal(fast.bn1.running_mean, model.bn1.running_mean)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
@torch.no_grad()
def test_a_norm_alone_in_training_mode_does_what_the_sources_does(name: str) -> None:
    """As when statistics are estimated again."""
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    for each in (model, fast):
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train()
    assert torch.allclose(fast(images), model(images), atol=1e-4)
    for (key, mine), theirs in zip(fast.named_buffers(), model.buffers(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4), key
    for each in (model, fast):
        each.eval()
    assert torch.allclose(fast(images), model(images), atol=1e-4)


def test_a_gradient_is_a_clear_error() -> None:
    model, images = model_and_images("vit-merged")
    fast = updp_rt.accelerate(model, images)
    y = fast(images)
    with pytest.raises(RuntimeError, match="for inference and have no gradient"):
        y.sum().backward()


def test_autocast_runs_the_sources_code() -> None:
    model, images = model_and_images("vit")
    fast = updp_rt.accelerate(model, images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(images), model(images))


@pytest.mark.parametrize("name", ["resnet18", "convnext-merged", "vit-merged", "mobilenetv2"])
@torch.no_grad()
def test_copies_and_pickles_are_accelerated_and_independent(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    expected = fast(images)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert len(list(fused_modules(other))) == len(list(fused_modules(fast)))
        assert torch.equal(other(images), expected)
        for parameter in other.parameters():
            parameter.mul_(0.5)
        assert not torch.equal(other(images), expected)
        assert torch.equal(fast(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18-merged", "mobilenetv2", "convnext-merged", "vit-merged"])
@torch.no_grad()
def test_compiles_without_graph_breaks(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    expected = fast(images)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(images), expected, atol=1e-4)
    next(p for p in fast.parameters() if p.dim() == 4).mul_(1.5)  # packed weights follow inside compiled code too
    assert torch.allclose(compiled(images), fast(images), atol=1e-4)
    assert not torch.allclose(fast(images), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2", "convnext-merged", "vit-merged"])
@torch.no_grad()
def test_exports_to_standard_operators(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    program = torch.export.export(fast, (images,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert not {target for target in called if not target.startswith(("aten.", "<built-in"))}
    assert torch.allclose(program.module()(images), model(images), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18-merged", "convnext-merged", "vit-merged"])
@torch.no_grad()
def test_other_shapes_and_layouts_and_no_images_at_all(name: str) -> None:
    model, images = model_and_images(name)
    fast = updp_rt.accelerate(model, images)
    wide = torch.randn(3, 3, images.shape[2], 2 * images.shape[3])[..., ::2]  # neither dense nor channels_last
    for other in (images[:1], images[:0], images.to(memory_format=torch.channels_last), wide):
        found, expected = fast(other), model(other)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)


@torch.no_grad()
def test_threads_share_a_model() -> None:
    model, images = model_and_images("mobilenetv2")
    fast = updp_rt.accelerate(model, images)
    batches = [torch.randn(n, *images.shape[1:]) for n in (1, 2, 3, 1, 2, 3)]
    found: dict[int, Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                found[index] = fast(batches[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        assert torch.allclose(found[index], model(batch), atol=1e-4)


def test_onednn_alone_runs_models_with_pools() -> None:
    model, images = model_and_images("resnet18")
    fast = updp_rt.accelerate(model, images, backends=["onednn"], strict=True)
    with torch.inference_mode():
        assert torch.allclose(fast(images), model(images), atol=1e-4)
