"""Measurements of tests, away from those of whoever runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from updp_rt.runtime.table import forget_tables


@contextmanager
def own_tables(folder: Path) -> Iterator[None]:
    """Within it, what is measured goes to `folder`; for fixtures that last longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPDP_RT_CACHE", str(folder))
        forget_tables()
        yield
    forget_tables()
