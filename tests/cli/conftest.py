"""Output as wide as tables need it, whatever terminal the tests run in."""

from __future__ import annotations

import pytest

from updp_rt.cli import common


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    # $COLUMNS would do, but not where it was set when the console was made, as in processes that run tests in parallel.
    monkeypatch.setattr(common.out, "_width", 200)
