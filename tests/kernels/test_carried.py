"""Kernels of Triton's that are compiled ahead: the file they come in, which launches they fit, when they are built."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from updp_rt.backends import ahead
from updp_rt.kernels.hip import objects as hip_objects
from updp_rt.kernels.triton import OPERATORS, objects, tiles
from updp_rt.kernels.triton.objects import CarriedKernel, form_of

KERNEL = CarriedKernel("linear_kernel float16 1", "linear_kernel", 4, 1024, b"code")
RECIPE = {"sources": objects.source_hash()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(hip_objects, "PACKAGED", tmp_path)
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    objects.carried.cache_clear()
    (tmp_path / "gfx908").mkdir()
    yield tmp_path / "gfx908"
    objects.carried.cache_clear()


def test_what_is_written_is_read(folder: Path) -> None:
    assert objects.carried("gfx908") == {}
    objects.carried.cache_clear()
    objects.write_objects(folder / objects.FILE, RECIPE, [KERNEL])
    assert objects.carried("gfx908") == {KERNEL.form: KERNEL}


@pytest.mark.parametrize("damage", ["sources", "cut", "empty", "kernel"])
def test_what_is_damaged_or_of_other_sources_is_left_aside(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / objects.FILE
    objects.write_objects(path, {"sources": "others"} if damage == "sources" else RECIPE, [KERNEL])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "kernel":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("manifest.json", f'{{"sources": "{objects.source_hash()}", "kernels": [{{"form": "x"}}]}}')
    assert objects.carried("gfx908") == {}
    assert "run: updp-rt kernels build --arch gfx908" in caplog.text


def test_a_form_is_any_size_of_aligned_tensors_of_one_dtype() -> None:
    x, y = torch.zeros(4, 8), torch.zeros(4, 8)

    def form(*arguments: Any, unit: int = 8) -> str | None:
        return form_of("linear_kernel", arguments, {"UNIT": unit, "ACT": "none"})

    assert form(x, None, y, 4, 8) == form(y, None, x, 5, 16) == "linear_kernel float32 10111 ACT=none UNIT=8"
    assert (
        len({form(x, None, y, 4), form(x, x, y, 4), form(x, None, y, 4, unit=1), form(x.half(), None, y.half(), 4)})
        == 4
    )
    assert form(x, None, y.half(), 4, 8) == "linear_kernel float32,float16 10111 ACT=none UNIT=8"
    assert form(x, None, torch.zeros(33)[1:], 4) is None
    assert form(x, None, y, 2**31) is None
    assert form(x, None, torch.empty(2**29 + 1, device="meta"), 4) is None


def test_a_launch_like_another_spells_no_form() -> None:
    x = torch.zeros(4, 8)
    first = form_of("linear_kernel", (x, 4), {"UNIT": 8})
    spelled = objects._form.cache_info().misses
    assert form_of("linear_kernel", (x.clone(), 5), {"UNIT": 8}) is first
    assert objects._form.cache_info().misses == spelled


@pytest.mark.parametrize("arch", ["gfx908", "gfx90a"])
def test_the_launches_of_the_models_are_known_for_each_tile(arch: str) -> None:
    found = ahead._launches(arch)
    assert 100 < len(found) < 300
    launched = {(kernel.__name__.removesuffix("_kernel"), tile.name) for kernel, tile, _ in found.values()}
    operators = set(OPERATORS) - {"epilogue", "add_layer_norm"}
    every = ((o, t) for o in operators for d in (torch.float16, torch.float32) for t in tiles(o, arch, d))
    assert launched == {
        (o, t.name) for o, t in every if o != "attention" or t.block_k == 64
    }  # the depth of their heads


def test_they_are_compiled_again_only_where_something_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(ahead, "_launches", lambda arch: {KERNEL.form: (None, None, {})})
    monkeypatch.setattr(ahead, "_compile", lambda form, *_: compiled.append(form) or KERNEL)
    for force, times in ((False, 1), (False, 1), (True, 2)):
        path = ahead.build_triton("gfx908", folder.parent, force=force)
        assert len(compiled) == times
    assert objects.read_objects(path) == {KERNEL.form: KERNEL}
    monkeypatch.setattr(objects, "source_hash", lambda: "others")
    ahead.build_triton("gfx908", folder.parent)
    assert len(compiled) == 3


def test_one_that_is_compiled_takes_the_arguments_that_are_given_and_two_more() -> None:
    from updp_rt import _launcher

    form, launch = next(iter(ahead._launches("gfx908").items()))
    kernel = ahead._compile(form, *launch, "gfx908")
    (described,) = _launcher.describe(kernel.code, "gfx908")["kernels"]
    assert described["name"] == kernel.name
    given = form.split()[2].count("1")
    assert len(described["arguments"]) == given + 2
