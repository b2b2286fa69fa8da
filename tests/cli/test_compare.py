"""``updp-rt compare`` from the command line: a whole comparison, and going on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run


@pytest.mark.slow
def test_a_comparison_on_digits_and_more_of_it(tmp_path: Path) -> None:
    """One command, methods of depth and width; asked for another method, it does that one alone."""
    common = ["small_resnet", "--num-pruned", "2", "--amounts", "0.3", "--seeds", "1", "--train-images", "64"]
    common += ["--baseline-epochs", "1", "--batch-size", "32", "--supernet-epochs", "1", "--epochs", "1"]
    common += ["--trials", "2", "--val-images", "32", "--out", str(tmp_path / "it"), "--json", "--plain"]
    status, told, _ = run("compare", *common, "--methods", "updp,channels-constrained")
    assert status == 0
    found = json.loads(told)
    assert [row["method"] for row in found["rows"]] == ["baseline", "updp", "channels-constrained"]
    assert found["left"] == []
    assert all(row["ms"][0] > 0 for row in found["rows"])
    before = (tmp_path / "it" / "rows" / "updp-2-seed-0.json").stat().st_mtime_ns
    _, told, _ = run("compare", *common, "--methods", "updp,channels-constrained,toast")
    found = json.loads(told)
    assert [row["method"] for row in found["rows"]][-1] == "toast"
    assert (tmp_path / "it" / "rows" / "updp-2-seed-0.json").stat().st_mtime_ns == before
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert page.count('id="chart-comparison"') == 1
    assert "toast 2" in page
