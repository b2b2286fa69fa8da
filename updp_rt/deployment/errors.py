"""The one error of exports."""

from __future__ import annotations


class ExportError(ValueError):
    """A model that cannot be exported so: why, and what to do. Nothing was written."""


def first_line(error: Exception) -> str:
    """What another package's error begins with."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
