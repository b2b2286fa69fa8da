"""How a case of a parametrised test is left to `make test-slow` or `make test-deploy`."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """The case of these arguments, marked slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def service(*values: Any) -> Any:
    """The case of these arguments, for `make test-deploy` alone, which installs what it needs."""
    return pytest.param(*values, marks=pytest.mark.service)
