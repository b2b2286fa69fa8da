"""Measurements that a test makes stay its own."""

from __future__ import annotations

from tests.ops.conftest import own_tuned_tables

__all__ = ["own_tuned_tables"]
