"""Copies, pickles and replicas of accelerated models, and models that refuse to be copied."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from timm.models import create_model
from torch import nn

import updp_rt
from tests.runtime.small import assert_same, small_model, small_resnet, twins
from updp_rt.blocks.randomize import randomize
from updp_rt.runtime.fused import fused_modules

ONEDNN = ["onednn", "reference"]


def by_torch_save(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch_save,
    "of a copy": lambda model: copy.deepcopy(pickle.loads(pickle.dumps(model))),
}


@pytest.mark.parametrize("name", COPIES)
@torch.no_grad()
def test_hooks_registered_on_copies_fire_and_only_there(name: str) -> None:
    source, fast, images = twins()
    handle = fast[1].conv1.register_forward_hook(hook := Count())
    fast(images)
    handle.remove()
    other = COPIES[name](fast)
    assert list(fused_modules(other))
    counts = [Count(), Count()]
    other[1].conv1.register_forward_hook(counts[0])
    other[0][1].register_forward_pre_hook(counts[1])
    assert_same(other, source, images)
    assert_same(fast, source, images)
    assert [hook.calls, *(count.calls for count in counts)] == [1, 1, 1]


@pytest.mark.parametrize("name", COPIES)
@torch.no_grad()
def test_copies_of_a_model_with_hooks_keep_them(name: str) -> None:
    source, fast, images = twins()
    fast[1].conv1.register_forward_hook(Count())
    fast[2][3].register_forward_hook(Count())
    other = COPIES[name](fast)
    assert_same(other, source, images)
    for module in (other[1].conv1, other[2][3]):
        (hook,) = module._forward_hooks.values()
        assert hook.calls == 1


class Count:
    """A hook that can be copied."""

    calls = 0

    def __call__(self, *args: Any) -> None:
        self.calls += 1


@torch.no_grad()
def test_a_copy_of_a_model_changed_since_follows_its_own_parts() -> None:
    source, fast, images = twins()
    for each in (source, fast):
        each[1].act1, each[0][0].stride = nn.SiLU(), (1, 1)
        each[1].bn2.eps = 0.3
    for make in COPIES.values():
        other = make(fast)
        assert_same(other, source, images)
        other[1].conv1.weight.mul_(2)
        assert not torch.allclose(other(images), fast(images))
    assert_same(fast, source, images)


def replica(module: Any) -> Any:
    """What ``torch.nn.parallel.replicate`` makes on another device: with plain tensors for weights."""
    made = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else replica(child)
    for name, parameter in module._parameters.items():
        if parameter is None:
            made._parameters[name] = None
        else:
            setattr(made, name, parameter.detach() * 1.5)
    return made


@torch.no_grad()
def test_replicas_compute_with_what_they_were_given() -> None:
    source, fast, images = twins()
    assert torch.allclose(replica(fast)(images), replica(source)(images), rtol=1e-4, atol=1e-4)
    for part in (0, 1):
        x = images if part == 0 else torch.randn(2, 8, 8, 8)
        assert_same(fast[part]._replicate_for_data_parallel(), source[part]._replicate_for_data_parallel(), x)
    assert_same(fast, source, images)


@torch.no_grad()
def test_wrappers_of_parallel_training_run_it() -> None:
    source, fast, images = twins()
    assert_same(nn.DataParallel(fast), source, images)
    replicas = [fast, *copy.deepcopy([fast] * 2)]
    for each in replicas:
        assert_same(each, source, images)


@pytest.mark.parametrize("cls", ["fx", "hook", "list"])
@torch.no_grad()
def test_feature_extractors_of_timm_keep_their_mode(cls: str) -> None:
    source = small_resnet(features_only=True, feature_cls=cls) if cls != "hook" else hooked_features()
    images = torch.randn(2, 3, 32, 32)
    fast = updp_rt.accelerate(source, images, backends=ONEDNN)
    assert not any(module.training for module in fast.modules())
    for found, wanted in zip(fast(images), source(images), strict=True):
        assert torch.equal(found, wanted) or torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


def hooked_features() -> Any:
    return randomize(create_model("test_efficientnet", features_only=True, feature_cls="hook").eval(), seed=1)


def test_modes_of_single_modules_survive_a_copy() -> None:
    source = randomize(small_model().eval(), seed=1)
    source[1].drop_path = nn.Dropout(0.0).train()
    fast = updp_rt.accelerate(source, torch.randn(2, 3, 8, 8), backends=ONEDNN)
    for other in (fast, copy.deepcopy(fast), updp_rt.restore(fast)):
        assert [m.training for m in other.modules()] == [m.training for m in source.modules()]


# Models that copy.deepcopy refuses


def with_old_weight_norm() -> Any:
    model: Any = small_model()
    nn.utils.weight_norm(model[1].conv2)
    return model


def with_pruning_masks() -> Any:
    model: Any = small_model()
    torch.nn.utils.prune.l1_unstructured(model[1].conv1, "weight", 0.5)
    model(torch.randn(2, 3, 8, 8))
    return model


def with_kept_activation() -> Any:
    model: Any = small_model()
    model.kept = model(torch.randn(2, 3, 8, 8))
    return model


@pytest.mark.parametrize("make", [with_old_weight_norm, with_pruning_masks, with_kept_activation])
def test_models_that_deepcopy_refuses_are_copied_by_value(make: Callable[[], Any]) -> None:
    source = make().eval()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(source)
    images = torch.randn(2, 3, 8, 8)
    fast = updp_rt.accelerate(source, images, backends=ONEDNN)
    assert_same(fast, source, images)
    assert_same(updp_rt.restore(fast), source, images)


def test_what_cannot_be_copied_is_named() -> None:
    source: Any = small_model().eval()
    source[1].lines = (line for line in ())
    with pytest.raises(ValueError, match=r"1\.lines of this Sequential.* inplace=True"):
        updp_rt.accelerate(source, torch.randn(2, 3, 8, 8))
    assert updp_rt.accelerate(source, torch.randn(2, 3, 8, 8), inplace=True) is source
