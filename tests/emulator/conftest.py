"""Code objects that several tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

from updp_rt.kernels.hip.compilers import find_compiler


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of small.hip, compiled for gfx908."""
    target = tmp_path_factory.mktemp("code") / "small.hsaco"
    find_compiler("gfx908").compile(Path(__file__).with_name("small.hip"), target)
    return target
