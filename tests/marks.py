"""How a case of a parametrised test is left to `make test-slow`."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """The case of these arguments, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)
