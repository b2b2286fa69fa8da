"""The strip of blocks before and after, where the saved model is not there to be counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import timm

from updp_rt.artifacts.manifest import MergedForm
from updp_rt.blocks import inspect
from updp_rt.report.collect import Missing
from updp_rt.report.strips import find_strips


def test_forms_that_are_not_counted_in_a_saved_model_are_those_of_the_structure() -> None:
    structure = inspect(timm.create_model("resnet18"), (3, 64, 64))
    forms = {
        "layer1.0": MergedForm(body="skip", form="identity"),
        "layer1.1": MergedForm(body="affine", form="pointwise"),
        "layer2.1": MergedForm(body="shrunk", form="conv"),
    }
    nothing = Missing("not measured")
    parts: Any = SimpleNamespace(structure=structure, forms=forms, costs={}, profile=nothing, latency=nothing)
    strips = find_strips(parts)
    assert not isinstance(strips, Missing)
    after = {block.name: block.sizes[1] for block in strips.blocks}
    pixels = 16 * 16, 8 * 8
    assert after["layer1.0"] == 0
    assert after["layer1.1"] == pixels[0] * 64 * 64 / 1e6
    assert after["layer2.1"] == pixels[1] * 128 * 128 * 9 / 1e6
    assert after["layer3.0"] == strips.blocks[4].sizes[0] > 0
