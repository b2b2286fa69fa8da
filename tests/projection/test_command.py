"""``updp-rt project`` as a user meets it, and the report behind it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import timm
from typer.testing import CliRunner

import updp_rt
from updp_rt.cli import app
from updp_rt.projection import LABEL

# Small, quick to compile, with linear layers, attention and norms.
MODEL = ("project", "test_vit", "--batch", "8", "--img-size", "96")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _own_tuned_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path))


def test_help_says_what_it_is() -> None:
    status, out, _ = run("project", "--help")
    assert status == 0
    text = re.sub(r"[\s│]+", " ", out)
    assert "a projection, not a measurement" in text
    assert "Example: updp-rt project" in text


def test_the_table_is_labelled_and_tells_what_is_left_to_torch() -> None:
    status, out, _ = run("project", "test_vit3", "--batch", "8", "--img-size", "96", "--backend", "hip")
    assert status == 0
    assert f"({LABEL})" in out
    assert "hip:" in out
    assert "the whole model: " in out
    assert re.search(r"\d+ bmm, at least [\d.]+ ms: no rule fuses AttentionPoolLatent", out)
    assert re.search(r"unfused, as torch runs it: at least [\d.]+ ms", out)
    assert re.search(r"launches: \d+, unfused \d+", out)


@pytest.mark.slow
def test_json_holds_every_kernel_and_the_machine() -> None:
    status, out, _ = run(*MODEL, "--dtype", "bfloat16", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["what"] == LABEL
    assert report["machine"]["compute_units"] == 120
    assert report["rows"]
    for row in report["rows"]:
        assert "bfloat16" in row["problem"]
        assert {kernel["kernel"].split(":")[0] for kernel in row["kernels"]} == {"hip", "triton"}
        for kernel in row["kernels"]:
            assert kernel["ms"] > max(kernel["resources_ms"].values()) == kernel["resources_ms"][kernel["bound"]]
            assert kernel["share"] == pytest.approx(row["roofline_ms"] / kernel["ms"])
    fused = sum(row["count"] * row["kernels"][0]["ms"] for row in report["rows"])
    left = sum(one["ms"] for one in report["left"])
    total, unfused = report["total"], report["unfused_at_least"]
    assert total["fused_ms"] == pytest.approx(fused)
    assert total["ms"] == pytest.approx(fused + left)
    assert total["launches"] == sum(one["count"] for one in (*report["rows"], *report["left"]))
    assert all(one["why"] for one in report["left"])
    assert unfused["launches"] == sum(one["count"] for one in report["unfused"]) > total["launches"]
    assert unfused["ms"] == pytest.approx(sum(one["ms"] for one in report["unfused"]))


@pytest.mark.slow
def test_blocks_can_be_merged_first() -> None:
    plain, merged = (
        json.loads(run(*MODEL, "--backend", "hip", "--json", *more)[1]) for more in ((), ("--num-pruned", "2"))
    )
    counts = [Counter({row["operator"]: row["count"] for row in report["rows"]}) for report in (plain, merged)]
    assert counts[0]["dual_linear"] == 0
    assert counts[1]["dual_linear"] == 2
    assert merged["total"]["ms"] < plain["total"]["ms"]
    assert merged["num_pruned"] == 2


@pytest.mark.slow
def test_a_folder_projects_as_its_model(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=96).eval()
    updp_rt.save(model, tmp_path / "saved")
    by_folder, by_name = (
        json.loads(run("project", name, "--batch", "8", "--img-size", "96", "--backend", "hip", "--json")[1])
        for name in (str(tmp_path / "saved"), "test_vit")
    )
    counts = [{row["problem"]: row["count"] for row in report["rows"]} for report in (by_folder, by_name)]
    assert counts[0] == counts[1]
    # Which lines share a set of L1 depends on where memory happened to lie.
    assert by_folder["total"]["ms"] == pytest.approx(by_name["total"]["ms"], rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--arch", "gfx90a"), "--arch takes gfx908"),
        (("--dtype", "int8"), "--dtype takes float32"),
        (("--backend", "cuda"), "--backend takes hip"),
        (("--img-size", "big"), "is not an image size"),
        (("--num-pruned", "40"), "40 blocks cannot be pruned: the model has 6 that can"),
    ],
)
def test_wrong_options_are_named(arguments: tuple[str, ...], message: str) -> None:
    status, out, err = run("project", "test_vit", *arguments)
    assert status == 2
    assert message in err
    assert not out
