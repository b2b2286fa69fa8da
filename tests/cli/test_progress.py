"""Without a terminal a long command says now and then how far it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm

import updp_rt
from tests.cli.test_cli import run
from tests.marks import slow
from updp_rt._progress import heard_by
from updp_rt.cli.progress import counted
from updp_rt.pruning import progress
from updp_rt.report import profile

pytestmark = pytest.mark.usefixtures("own_table")


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


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        slow(("explain", "test_resnet", "--img-size", "32"), ("measuring kernels", "timing")),
        (("verify", "test_resnet", "--img-size", "32", "--batch", "1"), ("measuring kernels", "verifying")),
        (("tune", "test_resnet", "--img-size", "32"), ("measuring kernels",)),
        (("check", "test_vit", "--img-size", "48", "--prune", "1"), ("checking λ = 0 of ", "checking λ = 1 of ")),
    ],
    ids=lambda given: given[0],
)
def test_commands_say_how_far_they_are(
    arguments: tuple[str, ...], stages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    status, _, error = run(*arguments)
    assert status == 0
    for stage in stages:
        # In tests no more than three rounds are timed.
        assert re.search(rf"^{stage}.*: 0 of (\d+)\n(.*\n)*{stage}.*: [1-9]\d* of \1", error, re.MULTILINE), error
    assert run(*arguments, "--json")[2] == ""


def test_a_profile_says_how_far_it_is(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    said = []
    with heard_by(lambda *told: said.append(told)):
        profile(updp_rt.save(model.eval(), tmp_path / "saved", input_size=(1, 32, 32)), batch_size=1, engine="modules")
    assert {what for what, *_ in said} == {"measuring kernels", "accelerating blocks", "timing"}
    assert [done for what, done, _ in said if what == "timing"][:4] == [0, 1, 2, 3]
    assert all(done <= total for _, done, total in said)
