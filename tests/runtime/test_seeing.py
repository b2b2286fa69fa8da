"""The quick answer before a call: nothing that was looked at is changed without being seen, natively and in Python."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.runtime.small import small_model, twins
from updp_rt._seen import Seen, see
from updp_rt.runtime import seeing
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.seeing import UNSEEN, look, look_at_tensors
from updp_rt.runtime.tensors import HeldStamps
from updp_rt.runtime.watching import Watched


class Thing:
    pass


def replaced(held: dict[str, Any]) -> None:
    held["b"] = [2]


def gone(held: dict[str, Any]) -> None:
    del held["b"]


def added(held: dict[str, Any]) -> None:
    held["c"] = 3


def reordered(held: dict[str, Any]) -> None:
    held["a"] = held.pop("a")


@pytest.mark.parametrize(
    ("change", "seen_by"),
    [
        (replaced, {"entries", "contents"}),
        (gone, {"entries", "contents", "sizes"}),
        (added, {"contents", "sizes"}),
        (reordered, {"contents"}),
    ],
)
def test_changes_of_dictionaries_are_seen(change: Callable[[dict[str, Any]], None], seen_by: set[str]) -> None:
    held = {"a": 1, "b": [2]}
    looked = {"entries": see(entries=[(held, "b")]), "contents": see(contents=[held]), "sizes": see(sizes=[held])}
    assert all(look.same() for look in looked.values())
    change(held)
    assert {name for name, look in looked.items() if not look.same()} == seen_by


def test_a_store_that_python_has_specialised_is_seen() -> None:
    module = nn.Identity()

    def store(value: object) -> None:
        module.scale = value  # type: ignore[assignment]

    for i in range(1000):  # a warm loop, in which stores take a way of their own
        store(i)
        looked = see(entries=[(module.__dict__, "scale")])
        assert looked.same()
        store(i)
        assert looked.same()  # the very same object, stored again: the dictionary is read again
        assert looked.same()
        store(object())
        assert not looked.same()


def test_another_type_is_seen() -> None:
    thing = Thing()
    looked = see(objects=[thing])
    thing.__class__ = type("Other", (Thing,), {})
    assert not looked.same()


def in_place(tensor: Tensor) -> None:
    tensor[0, 0] = 7


def moved(tensor: Tensor) -> None:
    tensor.data = tensor.data.clone()


def swapped(tensor: Tensor) -> None:
    torch.utils.swap_tensors(tensor, tensor.clone())


def emptied(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def written_past_torch(tensor: Tensor) -> None:
    tensor.numpy()[2] += 1


@pytest.mark.parametrize("change", [in_place, moved, swapped, emptied, written_past_torch])
def test_changes_of_tensors_are_seen(change: Callable[[Tensor], None]) -> None:
    holder, other = {"t": torch.randn(5, 5)}, torch.randn(2, 3)
    looked, stamps = look_at_tensors([holder], [other], [(other, 0, 0)]), HeldStamps([(holder, "t")])
    assert looked.same()
    assert stamps._looked.same()  # natively
    change(holder["t"])
    assert not stamps._looked.same()
    assert not stamps.hold()
    stamps.renew()
    assert stamps.hold()
    assert looked.same()  # it watches other tensors


def test_a_model_is_looked_at_natively() -> None:
    _, fast, images = twins()
    with torch.inference_mode():
        fast(images)
    for _, _, fusion in fused_modules(fast):
        assert fusion._watched._looked.same()
        assert fusion._weights._looked.same()


def test_what_is_equal_has_not_changed_though_it_is_another_object() -> None:
    module = nn.Conv2d(3, 4, 3, stride=(2, 1))
    watched = Watched([module])
    assert watched._looked.same()
    module.stride = tuple(int(size) for size in "21")  # another object than the first: literals may be one
    assert not watched._looked.same()
    assert not watched.changed()
    module.stride = (1, 1)
    assert watched.changed()


def test_without_native_code_python_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "_seen", None)
    model = small_model()
    watched, stamps = (
        Watched(model.modules()),
        HeldStamps((m._parameters, "weight") for m in (model[0][0], model[2][0])),
    )
    assert watched._looked is stamps._looked is UNSEEN
    assert stamps.hold()
    assert not watched.changed()
    with torch.no_grad():
        model[2][0].weight.neg_()
    assert not stamps.hold()


def test_what_is_unknown_is_left_to_python() -> None:
    class Own(Tensor):
        pass

    with pytest.raises(TypeError, match="tensors are wanted"):
        see(versioned=["no tensor"])
    with pytest.raises(KeyError):
        see(entries=[({}, "gone")])
    assert look(entries=[({}, "gone")]) is UNSEEN
    assert look_at_tensors([], [torch.zeros(2).as_subclass(Own)], []) is UNSEEN


def test_copies_know_nothing() -> None:
    looked = see(sizes=[{}])
    assert not any(other.same() for other in (copy.deepcopy(looked), copy.copy(looked), Seen()))
    assert looked.same()


def test_it_keeps_no_model_alive_that_holds_it() -> None:
    module = nn.Linear(2, 2)
    module.__dict__["watched"] = see(
        entries=[(module.__dict__, "training")], objects=[module], versioned=[module.weight]
    )
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
