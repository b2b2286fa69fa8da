"""``updp-rt check`` as a user meets it, and `verify --model`, which says that it is the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.cli.test_cli import run
from updp_rt.blocks import progressive
from updp_rt.reparam import AffineConv, move_padding


@pytest.mark.slow
def test_it_passes_and_reports_its_errors() -> None:
    status, out, error = run("check", "resnet18", "--img-size", "49", "--prune", "2", "--json")
    verdict = json.loads(out)
    assert (status, error) == (0, "")
    assert verdict["passed"]
    assert len(verdict["pruned"]) == 2
    for name in ("lambda0_error", "merge_error_interior", "merge_error_border"):
        assert 0 <= verdict[name] <= 1e-12
    for name in ("lambda0_error_logits", "merge_error_logits"):
        assert 0 <= verdict[name] <= verdict["bound_logits"]
    status, out, _ = run("check", "test_vit", "--dtype", "float32")
    assert status == 0
    assert "PASSED" in out


def test_verify_with_a_model_says_which_command_does_it() -> None:
    arguments = ("test_vit", "--img-size", "48", "--prune", "1", "--seed", "3", "--json")
    status, out, error = run("verify", "--model", *arguments)
    assert status == 0
    assert error == "updp-rt: verify --model is a command of its own now: updp-rt check\n"
    assert json.loads(out) == json.loads(run("check", *arguments)[1])


@pytest.mark.slow
def test_a_wrong_merge_ends_with_status_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(chain: list[AffineConv]) -> list[AffineConv]:
        head, *rest = move_padding(chain)
        return [replace(head, bias=head.bias + 1e-3), *rest]

    monkeypatch.setattr(progressive, "move_padding", wrong)
    status, out, _ = run("check", "mobilenetv2_050", "--img-size", "64", "--prune", "3", "--json")
    assert status == 1
    assert not json.loads(out)["passed"]
    status, out, _ = run("check", "mobilenetv2_050", "--img-size", "64", "--prune", "1")
    assert status == 1
    assert "FAILED" in out
