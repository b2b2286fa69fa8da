"""Attention: heads go as a whole, or stay; whatever else is done to what was taken apart keeps them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import updp_rt
from tests.channels.common import all_exports, random_masks
from tests.conftest import relative_error
from tests.marks import slow
from updp_rt.artifacts import read_manifest
from updp_rt.blocks import make_progressive, merge_model, prunable_blocks, set_lambda
from updp_rt.blocks.randomize import randomize
from updp_rt.channels import Trace, mask_model, trace
from updp_rt.channels.layout import count_params
from updp_rt.channels.masks import choose_masks

X = torch.randn(2, 3, 32, 48)
HEADS, DEPTH = 4, 6


def vit() -> nn.Module:
    """A ViT of four blocks with six heads."""
    sizes = {"img_size": (32, 48), "embed_dim": 96, "num_heads": 6, "depth": 4}
    return randomize(timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes)).eval()


def head_masks(found: Trace, seed: int) -> dict[str, np.ndarray]:
    """Random masks, under which each block keeps a few whole heads."""
    draw = np.random.default_rng(seed)
    masks = random_masks(found, 0.5, seed)
    for name in masks:
        if name.endswith("attn.proj"):
            masks[name] = np.repeat(draw.permutation(6) < draw.integers(1, 6), 16)
    return masks


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_masked_and_exported_agree(seed: int) -> None:
    model = vit().double()
    x = X.double()
    found = trace(model, x)
    masks = head_masks(found, seed)
    wanted = mask_model(model, masks)
    for export, (exported, _) in all_exports(model, torch.randn_like(x[:1]), masks, found).items():
        with torch.no_grad():
            assert relative_error(exported(x), wanted(x)) < 1e-12, export
        kept = [int(masks[f"blocks.{i}.attn.proj"].sum()) // 16 for i in range(4)]
        assert [block.attn.num_heads for block in exported.blocks] == kept
        assert [block.attn.qkv.out_features for block in exported.blocks] == [3 * 16 * count for count in kept]
        assert all(block.attn.head_dim == 16 for block in exported.blocks)
    narrow = updp_rt.prune_channels(model, x, masks=masks).pruned_cost.params
    assert narrow == count_params(found, masks)


def test_budgets_count_heads() -> None:
    model = vit()
    local = updp_rt.prune_channels(model, X, 0.5, scope="local")
    assert [block.attn.num_heads for block in local.model.blocks] == [3] * 4
    result = updp_rt.prune_channels(model, X, 0.4)
    assert result.pruned_cost.params <= 0.6 * result.cost.params
    assert result.copies.gathered == 0
    assert sum(block.attn.num_heads for block in result.model.blocks) < 24


def test_a_head_costs_its_keys_as_well_as_its_values() -> None:
    """The budget drops a head, or as many of the channels that have lower scores for each parameter: not both."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.fc1, self.fc2 = (
                Attention(CHANGES["held"][0], "width"),
                nn.Linear(5, 40),
                nn.Linear(40, 5),
            )

        def forward(self, image: Tensor) -> Tensor:
            return self.fc2(self.fc1(self.attention(image)))

    found = trace(Block(), X[..., :2, :3])
    # Parameters: of a head 4 x (inputs or outputs) and biases, of a hidden channel 5 + 5 + 1.
    head, hidden = DEPTH * (3 * (7 + 1) + 5), 5 + 5 + 1
    for factor, kept in ((0.9, HEADS), (1.1, HEADS - 1)):
        scores = {name: np.full(len(consumer.channels), 1e9) for name, consumer in found.prunable.items()}
        scores["attention.proj"][:DEPTH] = 1.0
        scores["fc2"][:] = factor * 2 * DEPTH * hidden / head
        masks = choose_masks(found, scores, 0.1)
        assert masks["attention.proj"].sum() == kept * DEPTH
        assert masks["fc2"].all() == (kept < HEADS)


def test_a_head_stays_while_one_of_its_channels_is_read() -> None:
    model = vit().double()
    masks = {"blocks.1.attn.proj": np.arange(96) % 32 == 5}  # one channel of every other head
    result = updp_rt.prune_channels(model, X.double(), masks=masks)
    assert [block.attn.num_heads for block in result.model.blocks] == [6, 3, 6, 6]


@pytest.mark.slow
def test_saved_exported_accelerated_merged(tmp_path: Path) -> None:
    model = vit()
    narrow = updp_rt.prune_channels(model, X, masks=head_masks(trace(model, X), 0)).model
    with torch.no_grad():
        wanted = narrow(X)
        again = updp_rt.load(updp_rt.save(narrow, tmp_path, model_args={"embed_dim": 96, "num_heads": 6, "depth": 4}))
        assert torch.equal(again(X), wanted)
        assert read_manifest(tmp_path).channels.numbers
        assert relative_error(torch.export.export(narrow, (X,)).module()(X), wanted) < 1e-5
        fast = updp_rt.accelerate(narrow, X)
        assert relative_error(fast(X), wanted) < 1e-4
    narrow.train()(X).sum().backward()
    assert all(parameter.grad is not None for parameter in narrow.parameters())


def test_others_are_chosen_where_heads_turn_out_to_stay() -> None:
    class Written(nn.Module):
        """A head count in its code, where it shows only when it runs."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention(lambda q, k, v: (q, k, v), "written")
            self.fc1, self.fc2 = nn.Linear(5, 40), nn.Linear(40, 5)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc2(self.fc1(self.attention(image)))

    result = updp_rt.prune_channels(Written(), X[..., :2, :3], 0.5, scope="local")
    assert result.model.attention.heads == HEADS
    assert result.model.fc2.in_features == 20
    assert any(
        "heads of attention and parts of splits all stay; without that, the exported model does not" in n
        for n in result.notes
    )


def test_depth_before_and_after() -> None:
    def shallow(model: nn.Module) -> nn.Module:
        subnet = make_progressive(model, prunable_blocks(model)[1::2])
        set_lambda(subnet, 1.0)
        return merge_model(subnet).eval()

    model = vit()
    first = shallow(model)
    after = updp_rt.prune_channels(first, X, 0.5, scope="local")
    before = shallow(updp_rt.prune_channels(model, X, 0.5, scope="local").model)
    for pruned in (after.model, before):
        assert [block.attn.num_heads for block in pruned.blocks] == [3] * 4
        assert pruned(X).isfinite().all()
    with torch.no_grad():
        assert relative_error(after.model(X), mask_model(first, after.masks)(X)) < 1e-4


class Attention(nn.Module):
    """Attention that does `change` to query, key and value first, and joins heads by `join`."""

    def __init__(self, change: Callable[..., tuple[Tensor, Tensor, Tensor]], join: str, depth: int = DEPTH) -> None:
        super().__init__()
        self.heads, self.depth, self.width = HEADS, depth, HEADS * depth
        self.change, self.join = change, join
        self.stem, self.qkv, self.proj = nn.Linear(3, 7), nn.Linear(7, 3 * self.width), nn.Linear(self.width, 5)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.stem(image.flatten(2).transpose(1, 2))
        n, t, _ = tokens.shape
        qkv = self.qkv(tokens).reshape(n, t, 3, self.heads, self.depth).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*self.change(*qkv.unbind(0))).transpose(1, 2)
        joined = {"width": (n, t, self.width), "rest": (n, t, -1), "written": (n, t, HEADS * DEPTH), "tokens": (n, -1)}
        y = y.reshape(joined[self.join])
        return self.proj(y.view(n, t, -1))


CHANGES: dict[str, tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], str, str]] = {
    "held": (lambda q, k, v: (q, k, v), "width", ""),
    "rest": (lambda q, k, v: (q, k, v), "rest", ""),
    "selected": (lambda q, k, v: (torch.stack([q, k])[0], k, v), "width", "stack is not followed"),
    "written": (lambda q, k, v: (q, k, v), "written", "heads of attention and parts of splits all stay"),
    "joined with tokens": (lambda q, k, v: (q, k, v), "tokens", "reshape takes channels apart"),
    "one head for all": (lambda q, k, v: (q.unbind(1)[1].unsqueeze(1).expand_as(q), k, v), "width", "unbind takes"),
    "normed": (lambda q, k, v: (F.layer_norm(q, (DEPTH,)), k, v), "width", "layer_norm is not followed"),
    "scaled": (lambda q, k, v: (q * 0.3, k, v), "width", "mul is not followed"),
    "other heads": (lambda q, k, v: (q, k.flip(1), v), "width", "flip is not followed"),
    "sliced": (lambda q, k, v: (q[..., :2], k[..., :2], v), "width", "slice is not followed"),
    "swapped": (lambda q, k, v: (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)), "rest", "not followed"),
    "masked": (lambda q, k, v: (q, k, v, torch.ones(1, 1, 6, 6, device=q.device).tril() > 0), "width", ""),
    "masked by head": (
        lambda q, k, v: (q, k, v, torch.linspace(-3, 3, HEADS * 36).to(q).view(1, HEADS, 6, 6)),
        "width",
        "masks every head otherwise",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_followed_and_what_ends_the_segment(case: str) -> None:
    change, join, note = CHANGES[case]
    model = Attention(change, join).double()
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    masks = {"proj": np.arange(HEADS * DEPTH) // DEPTH != 1}
    found = trace(model, x)
    assert note or "proj" in found.prunable
    if "proj" in found.prunable:
        result = updp_rt.prune_channels(model, x, masks=masks)
        assert result.model.heads == (HEADS if note else HEADS - 1)
        assert result.model.width == (HEADS if note else HEADS - 1) * DEPTH
        if not note:
            with torch.no_grad():
                other = torch.randn_like(x)
                assert relative_error(result.model(other), mask_model(model, masks)(other)) < 1e-12
        notes = result.notes
    else:
        notes = found.notes
    assert any(note in each for each in notes) if note else not notes


def test_as_many_heads_as_channels_in_each() -> None:
    model = Attention(lambda q, k, v: (q, k, v), "width", depth=HEADS)
    assert any("as many heads as channels" in note for note in trace(model, torch.randn(1, 3, 2, 3)).notes)
