"""`prune_channels` as users call it, and what can be done with its result."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import updp_rt
from tests.conftest import relative_error
from tests.marks import slow
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import find_family, make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.channels import Selecting, check, mask_model, select
from updp_rt.pruning import latency

X = torch.randn(2, 3, 40, 33)


def small(name: str = "resnet18", **arguments: object) -> nn.Module:
    return randomize(timm.create_model(name, num_classes=5, **arguments)).eval()


def merged(model: nn.Module) -> nn.Module:
    subnet = make_progressive(model, prunable_blocks(model)[1::2])
    set_lambda(subnet, 1.0)
    return merge_model(subnet)


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    """A ResNet-18 in which views and gathers stand before layers."""
    torch.manual_seed(0)
    model = updp_rt.prune_channels(small(), X, scope="local").model
    kinds = {m.selection.kind for m in model.modules() if isinstance(m, Selecting)}
    assert kinds == {"view", "gather"}
    return model


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    """A DenseNet whose concatenations are of fewer channels."""
    torch.manual_seed(0)
    model = updp_rt.prune_channels(
        small("densenet121", block_config=(2, 4, 2, 2)), X, scope="local", copies="fewest"
    ).model
    assert "parts" in {m.selection.kind for m in model.modules() if isinstance(m, Selecting)}
    return model


def test_the_result_says_what_was_done() -> None:
    model = small()
    result = updp_rt.prune_channels(model, X, amount=0.5, scope="local")
    assert result.pruned_cost.params < 0.5 * result.cost.params
    assert result.copies.gathered == result.optimum < result.naive.gathered
    assert result.error < 1e-12
    report = result.to_dict()
    assert report["architecture"] == "resnet18"
    assert len(report["layers"]) == len(result.masks) == 20
    for layer in result.layers:
        assert layer.kept == result.masks[layer.name].sum() <= layer.read <= layer.inputs
    with torch.no_grad():
        assert relative_error(result.model(X), mask_model(model, result.masks)(X)) < 1e-5


def test_the_source_is_left_alone() -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    updp_rt.prune_channels(model, X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(isinstance(module, Selecting) for module in model.modules())


def test_masks_of_ones_change_nothing() -> None:
    model = small()
    result = updp_rt.prune_channels(model, X, amount=0.0)
    assert result.copies.gathered == result.naive.gathered == 0
    assert {k: v.shape for k, v in result.model.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("which", ["pruned", "dense"])
def test_save_and_load_bit_for_bit(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = request.getfixturevalue(which)
    again = updp_rt.load(updp_rt.save(model, tmp_path))
    assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(again(X), model(X))


@pytest.mark.slow
def test_what_is_selected_is_printed(pruned: nn.Module, dense: nn.Module) -> None:
    assert "bias=False, gather of 32 of " in str(pruned)
    assert "bias=False, view of " in str(pruned)
    assert "parts of" in str(dense)


def test_parts_are_joined_alike_with_and_without_gradients(dense: nn.Module) -> None:
    """In one pass where that is allowed; by torch's own operators in training, in another layout, of mixed dtypes."""
    module = next(m for m in dense.modules() if isinstance(m, Selecting) and len(m.selection.width) > 2)
    selection, index = module.selection, module.selected_channels.split(module.selection.counts)
    tensors = [torch.randn(2, width, 5, 3) for width in selection.width]
    runs = zip(tensors, selection.runs, strict=True)
    wanted = torch.cat([t[:, first : first + length] for t, run in runs for first, length in run], 1)
    last = [t.to(memory_format=torch.channels_last) for t in tensors]
    with torch.no_grad():
        (joining,) = select._take_parts(tensors, index, 1)
        assert torch.equal(torch.cat([joining], 1), wanted)
        with pytest.raises(TypeError, match="selected for a concatenation"):
            torch.stack([joining], 1)
        assert torch.equal(torch.cat(select._take_parts(last, index, 1), 1), wanted)
        mixed = [tensors[0].double(), *tensors[1:]]
        assert torch.equal(torch.cat(select._take_parts(mixed, index, 1), 1), wanted.double())
    trained = [t.clone().requires_grad_() for t in tensors]
    torch.cat(select._take_parts(trained, index, 1), 1).sum().backward()
    assert sum(int(t.grad.sum()) for t in trained) == wanted.numel()
    traced = torch.jit.trace(dense, X)
    with torch.no_grad():
        torch.testing.assert_close(traced(X + 1), dense(X + 1))


@pytest.mark.parametrize("which", ["pruned", "dense"])
def test_copies_pickles_and_moves(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    with torch.no_grad():
        wanted = model(X)
        assert torch.equal(copy.deepcopy(model)(X), wanted)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(X), wanted)
        assert relative_error(copy.deepcopy(model).double()(X.double()).float(), wanted) < 1e-4
    assert copy.deepcopy(model).to("meta")(X.to("meta")).shape == wanted.shape


@pytest.mark.parametrize("which", ["pruned", "dense"])
def test_torch_export(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    with torch.no_grad():
        assert relative_error(torch.export.export(model, (X,)).module()(X), model(X)) < 1e-6


def test_fine_tuning_lowers_the_loss(pruned: nn.Module) -> None:
    model = copy.deepcopy(pruned).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    labels = torch.tensor([0, 3])
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(model(X), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_accelerate_and_restore(pruned: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path))
    fast = updp_rt.accelerate(pruned, X)
    with torch.no_grad():
        assert relative_error(fast(X), pruned(X)) < 1e-4
        assert torch.equal(updp_rt.restore(fast)(X), pruned(X))
    with pytest.raises(updp_rt.ChannelError, match=r"updp_rt.restore it"):
        updp_rt.prune_channels(fast, X)


FAMILIES = [
    ("resnet18", {}),
    slow("convnext_atto", {}),
    slow("mobilenetv2_050", {"depth_multiplier": 0.5}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), FAMILIES)
def test_depth_first_then_channels(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    shallow = merged(small(name, **arguments)).double()
    result = updp_rt.prune_channels(shallow, X.double())
    assert result.pruned_cost.params < result.cost.params
    with torch.no_grad():
        assert relative_error(result.model(X.double()), mask_model(shallow, result.masks)(X.double())) < 1e-12
        again = updp_rt.load(updp_rt.save(result.model, tmp_path))
        assert torch.equal(again(X.double()), result.model(X.double()))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), FAMILIES)
def test_channels_first_then_depth(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    narrow = updp_rt.prune_channels(small(name, **arguments).double(), X.double()).model
    subnet = make_progressive(narrow).eval()
    with torch.no_grad():
        assert relative_error(subnet(X.double()), narrow(X.double())) < 1e-12
        set_lambda(subnet, 1.0)
        assert relative_error(merge_model(subnet)(X.double()), subnet(X.double())) < 1e-12
        shallow = merged(narrow)
        again = updp_rt.load(updp_rt.save(shallow, tmp_path))
        assert torch.equal(again(X.double()), shallow(X.double()))


def test_blocks_of_a_narrow_model_can_be_pruned(pruned: nn.Module) -> None:
    """What `inspect` says holds in every stage: latencies too are of blocks that read all of their input."""
    assert updp_rt.inspect(pruned).prunable == 8
    block, progressive = pruned.layer1[1], find_family(pruned).progressive
    x = torch.randn(1, *block.conv1.selection.width, 5, 7)
    measured = latency.measure_block(progressive, block, x, lambda module, x: module)
    assert measured.merged_ms.keys() == progressive.forms.keys()
    assert isinstance(block.conv1, Selecting)
    with torch.no_grad():
        assert relative_error(progressive(copy.deepcopy(block))(x), block(x)) < 1e-5


def test_a_selection_that_cannot_be_merged_is_a_reason_why_not(pruned: nn.Module) -> None:
    model = copy.deepcopy(pruned)
    width = model.layer4[1].conv2.in_channels
    select.select_input(model.layer4[1].bn1, select.Selection.view(1, 0, width, width))
    reasons = {block.name: block.reason for block in updp_rt.inspect(model).blocks if block.reason}
    assert list(reasons) == ["layer4.1"]
    assert "cannot read what it does not select" in reasons["layer4.1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "test_vit"])
def test_the_images_it_was_pruned_for_are_saved(name: str, tmp_path: Path) -> None:
    model = small(name, **({"img_size": 32} if "vit" in name else {}))
    images = torch.randn(1, 3, 32, 32)
    before = copy.deepcopy(model.pretrained_cfg)
    narrow = updp_rt.prune_channels(model, images, 0.1).model
    updp_rt.save(narrow, tmp_path)
    assert read_manifest(tmp_path).input_size == (3, 32, 32)
    assert model.pretrained_cfg == before
    assert updp_rt.inspect(narrow).input_size == (3, 32, 32)


class WrittenOut(nn.Module):
    """Its code holds the number of channels that a layer makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).reshape(-1, 8, x.shape[2] * x.shape[3])
        return self.third(torch.relu(self.second(y.unflatten(2, x.shape[2:]))))


def test_sizes_written_in_code_end_a_segment() -> None:
    model = WrittenOut().double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    result = updp_rt.prune_channels(model, x, scope="local")
    half = {name: np.arange(8) < 4 for name in ("second", "third")}
    given = updp_rt.prune_channels(model, x, masks=half)
    for each in (result, given):
        assert set(each.masks) == {"third"}
        # What the model itself said.
        assert any("reshape" in note and "does not run: RuntimeError" in note for note in each.notes)
        assert each.model.second.in_channels == 8
        assert each.model.third.in_channels == 4
        assert each.error < 1e-12
    # And which of the masks were not followed.
    assert any(note.startswith("second: keeps all its inputs") for note in given.notes)


class Nested(nn.Module):
    """Gives a dictionary that holds a list of tensors, or something without any."""

    def __init__(self, empty: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.empty = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), empty

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.second(torch.relu(self.first(x)))
        return {} if self.empty else {"maps": [y, y.mean((2, 3))]}


def test_nested_outputs_are_compared() -> None:
    x = torch.randn(1, 3, 4, 5)
    model = Nested()
    result = updp_rt.prune_channels(model, x)
    masked = mask_model(model, result.masks)
    assert 0 <= check.check_equal(masked, result.model, x).error < 1e-12
    for value in (1.0, torch.nan):  # in the first output alone
        wrong = copy.deepcopy(result.model)
        wrong.register_forward_hook(lambda m, a, out, v=value: {"maps": [out["maps"][0] + v, out["maps"][1]]})
        with pytest.raises(updp_rt.ChannelError, match="differs from the masked one"):
            check.check_equal(masked, wrong, x)
    with pytest.raises(updp_rt.ChannelError, match="holds no tensor"):
        check.check_equal(Nested(empty=True), Nested(empty=True), x)


class Borrowed(nn.Module):
    """A weight that two operators use in different ways must stay whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return self.last(y * self.second.weight.square().sum((0, 2, 3), keepdim=True).sqrt())


def test_a_weight_used_twice_stays_whole() -> None:
    with pytest.raises(updp_rt.ChannelError, match="no layer"):
        updp_rt.prune_channels(Borrowed(), torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"copies": "none"}, "choose among cheapest, fewest, naive"),
        ({"importance": "hrank"}, "needs images"),
        ({"masks": {"conv1": np.ones(3, bool), "nothing": np.ones(3, bool)}}, "'nothing' is not a layer"),
        ({"masks": {"fc": np.ones(3, bool)}}, r"bool of \(512,\) is expected"),
        ({"masks": {"fc": np.zeros(512, bool)}}, "drops every input"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(updp_rt.ChannelError, match=message):
        updp_rt.prune_channels(small(), X, **settings)


def test_a_model_that_cannot_be_exported() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(updp_rt.ChannelError, match=r"torch\.export cannot follow Branching"):
        updp_rt.prune_channels(Branching(), X)
