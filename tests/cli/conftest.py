"""Output as wide as tables need it, whatever terminal the tests run in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from updp_rt.cli import common
from updp_rt.pruning import kept


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    # $COLUMNS would do, but not where it was set when the console was made, as in processes that run tests in parallel.
    monkeypatch.setattr(common.out, "_width", 200)


@pytest.fixture(autouse=True, scope="session")
def _own_latencies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Latencies that stand-ins give, or that were taken in passing, are no later run's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "cache_folder", lambda: tmp_path_factory.mktemp("latencies"))
        yield
