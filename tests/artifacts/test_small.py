"""The small models: members of their families, with maps and tokens worth merging on, and saved as timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from updp_rt._names import SMALL_MODELS, refuse_unknown
from updp_rt.artifacts import ArtifactError, create_model
from updp_rt.artifacts.small import SMALL
from updp_rt.blocks import find_family, model_input_size, prunable_blocks

BLOCKS = {"small_resnet": 8, "small_mobilenetv2": 17, "small_convnext": 12, "small_vit": 12}


def maps(model: nn.Module) -> list[int]:
    """Pixels or tokens that each prunable block sees, in order."""
    seen: list[int] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        seen.append(x.shape[2] * x.shape[3] if x.dim() == 4 else x.shape[1])

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep) for name in prunable_blocks(model)]
    model(torch.zeros(1, *model_input_size(model)))
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", SMALL)
def test_they_are_members_of_their_families(name: str) -> None:
    model = create_model(name, num_classes=7).eval()
    assert model_input_size(model) == (3, 32, 32)
    assert find_family(model).name == name.removeprefix("small_")
    assert len(prunable_blocks(model)) == BLOCKS[name]
    seen = maps(model)
    assert min(seen) >= 4  # never a single pixel
    assert seen == [17] * 12 if name == "small_vit" else seen[0] >= 256
    assert sum(p.numel() for p in model.parameters()) < 3e6


@pytest.mark.parametrize("name", SMALL)
def test_they_are_saved_as_timms(name: str, tmp_path: Path) -> None:
    model = create_model(name, num_classes=7, in_chans=1).eval()
    updp_rt.save(model, tmp_path)
    assert '"small' not in (tmp_path / "manifest.json").read_text()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(updp_rt.load(tmp_path)(images), model(images))


def test_names() -> None:
    assert tuple(SMALL) == SMALL_MODELS
    for name in SMALL:
        refuse_unknown(name)
    with pytest.raises(ValueError, match="perhaps one of: small_resnet"):
        refuse_unknown("smal_resnet")
    with pytest.raises(ArtifactError, match="small_vit has no pretrained weights: train it"):
        create_model("small_vit", pretrained=True)
    assert model_input_size(create_model("small_vit", size=(40, 24))) == (3, 40, 24)


def test_the_vit_starts_with_positions_as_large_as_its_tokens() -> None:
    model: Any = create_model("small_vit", num_classes=7).eval()
    tokens = model.patch_embed(torch.randn(2, 3, 32, 32))
    positions = model.pos_embed[0, 1:]
    assert len(positions.unique(dim=0)) == 16
    assert 0.3 < positions.std() / tokens.std() < 3
