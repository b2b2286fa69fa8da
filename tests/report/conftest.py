"""A whole run of a small model, with a profile and a certificate, made once for all tests of the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import updp_rt
from tests.pruning.conftest import run_pruning
from tests.report.browser import Browser, find_chromium
from tests.tables import own_tables
from updp_rt.artifacts import Manifest
from updp_rt.report import collect, profile
from updp_rt.report.collect import Missing
from updp_rt.report.schema import Identity


@pytest.fixture(scope="session")
def _own_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_tables(tmp_path_factory.mktemp("cache")):
        yield


def whole_run(folder: Path) -> Path:
    """A run in `folder` in which nothing is missing."""
    run_pruning(folder, supernet_epochs=2, trials=4, epochs=2)
    profile(folder)
    merged, images = updp_rt.load(folder / "merged"), torch.randn(4, 3, 32, 32)
    certificate = updp_rt.verify(merged, updp_rt.accelerate(merged, images), images, source="random images")
    certificate.save(folder / "merged" / "certificate.json")
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, _own_tables: None) -> Path:
    """A whole run's folder. Tests that change it take a copy: `copy_of`."""
    return whole_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(autouse=True, scope="session")
def _known_models() -> Iterator[None]:
    """What a run's models are made of is found once: the pages of many damaged copies of one run ask for it."""

    def once(find: Callable[[Any], Any]) -> Callable[[Any], Any]:
        known: dict[str, Any] = {}

        def found(identity: Manifest | Identity | Missing) -> Any:
            if isinstance(identity, Missing):
                return find(identity)
            key = identity.model_dump_json()
            if key not in known:
                known[key] = find(identity)
            return known[key]

        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "_structure", once(collect._structure))
        patch.setattr(collect, "_costs", once(collect._costs))
        yield


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    return copy


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(find_chromium(), tmp_path_factory.mktemp("chromium")) as found:
        yield found
