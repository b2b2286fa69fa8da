"""Merged, narrow and accelerated models where a service expects one of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.nn import functional as F

import updp_rt
from tests.conftest import relative_error
from tests.conversion.models import images, make, results
from tests.runtime.conftest import merged
from tests.tables import own_tables

pytestmark = pytest.mark.service


@pytest.fixture(autouse=True, scope="module")
def _own_table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_tables(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module", params=["resnet", "convnext", "mobilenet", "vit", "deit", "deit-teacher"])
def served(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model of transformers, and its conversion with all blocks merged, both in float32."""
    theirs = make(request.param)
    return theirs.float(), merged(updp_rt.from_transformers(theirs, None)).float().eval()


@torch.no_grad()
def test_merged_and_accelerated_it_answers_as_before(served: Any) -> None:
    theirs, model = served
    x = images(theirs)[0].float()
    fast = updp_rt.accelerate(model, x)
    assert updp_rt.verify(model, fast, x).passed
    wrapped: Any = updp_rt.as_transformers(fast, theirs.config)
    labels = torch.tensor([3, 5])
    output = wrapped(pixel_values=x, labels=labels)
    with torch.inference_mode():
        assert torch.equal(output.logits, fast(x))
    assert torch.allclose(output.loss, F.cross_entropy(output.logits, labels))
    assert relative_error(output.logits, model(x)) < 1e-4
    assert wrapped.config.id2label == theirs.config.id2label == dict(enumerate("abcdefg"))
    assert not wrapped.training
    hidden = wrapped(pixel_values=x, output_hidden_states=True)
    assert len(hidden.hidden_states) >= 2
    assert relative_error(hidden.logits, output.logits) < 1e-4


def test_it_does_not_pretend_to_be_the_architecture_it_was(served: Any) -> None:
    theirs, model = served
    with pytest.raises(updp_rt.ConversionError, match=r"are merged, which no .* can be: updp_rt.as_transformers"):
        updp_rt.to_transformers(model, theirs)


@torch.no_grad()
def test_transformers_saves_and_loads_it(served: Any, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    theirs, model = served
    x = images(theirs)[0].float()
    updp_rt.as_transformers(model, theirs.config).save_pretrained(tmp_path / "theirs")
    updp_rt.save_pretrained(model, tmp_path / "ours")
    for folder in ("theirs", "ours"):
        again = AutoModelForImageClassification.from_pretrained(tmp_path / folder).eval()
        assert torch.equal(again(pixel_values=x).logits, model(x))
        assert again.config.id2label == theirs.config.id2label
        processor = AutoImageProcessor.from_pretrained(tmp_path / folder)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
        prepared = create_transform(**resolve_data_config(model=model))(picture)
        assert torch.equal(processor(picture, return_tensors="pt")["pixel_values"][0], prepared)


def test_a_pipeline_names_the_class(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, pipeline

    theirs = make("vit").float()
    model = merged(updp_rt.from_transformers(theirs, None))
    wrapped = updp_rt.as_transformers(model, theirs.config)
    wrapped.save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    classify = pipeline("image-classification", model=wrapped, image_processor=processor)
    picture = Image.new("RGB", (40, 36), (200, 30, 90))
    found = classify(picture)
    with torch.no_grad():
        logits = model(processor(picture, return_tensors="pt")["pixel_values"])
    assert found[0]["label"] == "abcdefg"[int(logits.argmax())]


@torch.no_grad()
def test_a_model_in_service_is_swapped_inside() -> None:
    theirs = make("resnet").float()
    model = merged(updp_rt.from_transformers(theirs, None))
    wrapped: Any = updp_rt.as_transformers(model, theirs.config)
    x = images(theirs)[0].float()
    before = wrapped(pixel_values=x).logits
    swapped = updp_rt.swap(wrapped.timm_model, x)
    assert torch.equal(wrapped(pixel_values=x).logits, swapped.fast(x))
    updp_rt.restore(wrapped.timm_model, inplace=True)
    assert torch.equal(wrapped(pixel_values=x).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet-bare", "vit-bare"])
def test_a_bare_model_gives_its_features(name: str) -> None:
    theirs = make(name)
    model = merged(updp_rt.from_transformers(theirs, None))
    wrapped: Any = updp_rt.as_transformers(model, theirs.config)
    (x, *_) = images(theirs)
    output = wrapped(pixel_values=x)
    assert torch.equal(output.pooler_output, model(x))
    assert output.last_hidden_state.shape == theirs(pixel_values=x).last_hidden_state.shape


@torch.no_grad()
def test_a_narrow_model_is_served_too(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    theirs = make("resnet").float()
    x = images(theirs)[0].float()
    narrow = updp_rt.prune_channels(updp_rt.from_transformers(theirs, None), x, amount=0.4).model
    with pytest.raises(updp_rt.ConversionError, match=r"differ in .* updp_rt.as_transformers"):
        updp_rt.to_transformers(narrow, theirs)
    wrapped: Any = updp_rt.as_transformers(narrow, theirs.config)
    assert torch.equal(wrapped(pixel_values=x).logits, narrow(x))
    wrapped.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(pixel_values=x).logits, narrow(x))


def test_it_trains_inside() -> None:
    theirs = make("vit").float()
    model = merged(updp_rt.from_transformers(theirs, None)).train()
    wrapped: Any = updp_rt.as_transformers(model, theirs.config)
    assert wrapped.training
    wrapped(pixel_values=images(theirs)[0].float(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_labels_of_another_model_are_refused() -> None:
    theirs = make("resnet")
    ours: Any = updp_rt.from_transformers(theirs, None)
    ours.reset_classifier(5)
    with pytest.raises(updp_rt.ConversionError, match="has 5 classes, and the config names 7"):
        updp_rt.as_transformers(ours, theirs.config)


def test_the_four_stages_take_it(tmp_path: Path) -> None:
    theirs = make("vit").float()
    data = [(torch.randn(3, 32, 32), number % 7) for number in range(32)]
    few = {"supernet_epochs": 1, "trials": 2, "epochs": 1, "batch_size": 8, "show_progress": False}
    model = updp_rt.from_transformers(theirs, None)
    result = updp_rt.prune(model, data, data, num_pruned=1, out=tmp_path, **few)
    shallow = result.merge()
    x = torch.randn(2, 3, 32, 32)
    fast = updp_rt.accelerate(shallow, x)
    assert updp_rt.verify(shallow, fast, x).passed
    answered = results(updp_rt.as_transformers(fast, theirs.config), x)
    assert answered.shape == (2, 7)
    with torch.no_grad():
        assert relative_error(answered, result.subnet.eval()(x)) < 1e-3
