"""Without a terminal a long command says now and then how far it is."""

from __future__ import annotations

import pytest

from updp_rt.cli.progress import counted
from updp_rt.pruning import progress


@pytest.mark.parametrize("quiet", [0.0, 1e9])
def test_lines_without_a_terminal(quiet: float, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", quiet)
    with counted("compiling") as advance:
        for done in range(4):
            advance(done, 3)
    out, error = capfd.readouterr()
    assert out == ""
    if quiet:
        assert error == ""
        return
    lines = error.splitlines()
    assert lines[0] == "compiling: 0 of 3"
    assert lines[1].startswith("compiling: 1 of 3; about ")
    assert lines[1].endswith(" s left")


def test_nothing_is_said_beside_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    with counted("compiling", show=False) as advance:
        advance(1, 2)
    assert capfd.readouterr() == ("", "")
