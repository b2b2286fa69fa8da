"""Measurements that a test makes stay its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_tuned_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache folder a test. The runtime is not loaded for it: the operators are right without."""
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path))
    _forget_tables()
    yield
    _forget_tables()


def _forget_tables() -> None:
    table = sys.modules.get("updp_rt.runtime.table")
    if table is not None:
        table.forget_tables()
