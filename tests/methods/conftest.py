"""Runs that time nothing."""

from __future__ import annotations

import pytest

from updp_rt.methods import drop
from updp_rt.pruning import latency, stages


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is compared, the first is the fastest by 10%."""

    def times(calls: dict[str, object], **how: object) -> dict[str, float]:
        return {name: 1e-3 * (1 + 0.1 * index) for index, name in enumerate(calls)}

    for module in (latency, stages, drop):
        monkeypatch.setattr(module, "time_side_by_side", times)
