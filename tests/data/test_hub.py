"""Data sets of the HF hub through timm's reader, with a stand-in for the package ``datasets``."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.data.making import encoded
from updp_rt.data import load_splits, make_loader
from updp_rt.data.pictures import Pictures


class Split:
    """The few things that timm's reader asks of a data set."""

    def __init__(self, names: list[str], labels: list[int], torn: int | None = None) -> None:
        self.info = SimpleNamespace(features={"label": SimpleNamespace(names=names)}, splits=None)
        self.labels, self.torn = labels, torn

    def cast_column(self, name: str, kind: object) -> Split:
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        payload = encoded(index)[: 200 if index == self.torn else None]
        return {"image": {"bytes": payload, "path": f"{index}.png"}, "label": self.labels[index]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    module = ModuleType("datasets")
    module.load_dataset = lambda name, split, **_: splits[split]  # type: ignore[attr-defined]
    module.Image = lambda decode: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    return splits


def labels(split: object) -> list[int]:
    return [label for _, batch in make_loader(split, 4, training=False) for label in batch.tolist()]  # type: ignore[arg-type]


def test_a_name_is_the_same_class_whatever_its_number(hub: dict[str, Split], caplog: pytest.LogCaptureFixture) -> None:
    hub["train"] = Split(["ant", "bee", "cat"], [0, 1, 2] * 4)
    hub["validation"] = Split(["cat", "ant"], [0, 1, 1, 0], torn=2)
    splits = load_splits("hfds/some", (1, 32, 32))
    assert splits.num_classes == 3
    assert (len(splits.train), len(splits.val)) == (11, 1)
    assert labels(splits.test) == [2, 0, 2]
    assert isinstance(splits.test, Pictures)
    assert "left out: 2.png: cannot be read" in caplog.text
    assert splits.test[0][0].shape == (1, 32, 32)


def test_a_name_that_train_does_not_have(hub: dict[str, Split]) -> None:
    hub["train"], hub["validation"] = Split(["ant", "bee"], [0, 1]), Split(["ant", "wolf"], [0, 1])
    with pytest.raises(ValueError, match="validation split of 'hfds/some' has a class 'wolf', which train"):
        load_splits("hfds/some", (3, 32, 32))


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    with pytest.raises(ValueError, match=r"cannot read the train split of 'hfds/some': .*datasets"):
        load_splits("hfds/some", (3, 32, 32))
