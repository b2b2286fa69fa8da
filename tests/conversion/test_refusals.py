"""Without transformers, or with what is none of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import timm
from torch import nn

import updp_rt


@pytest.mark.parametrize("model", [nn.Linear(2, 2), type("ViTForImageClassification", (nn.Module,), {})()])
def test_what_is_not_of_transformers_is_refused(model: nn.Module) -> None:
    with pytest.raises(updp_rt.ConversionError, match=rf"this is a {type(model).__name__}; of transformers, ResNet"):
        updp_rt.from_transformers(model, None)
    with pytest.raises(updp_rt.ConversionError, match="can be converted"):
        updp_rt.to_transformers(model, model)


def test_transformers_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    model = timm.create_model("test_resnet").eval()
    with pytest.raises(updp_rt.ConversionError, match=r"pip install 'updp_rt\[transformers\]'"):
        updp_rt.as_transformers(model, SimpleNamespace(num_labels=1000))
