"""The page about a comparison: one picture, what is published in a column of its own, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm

from tests.report.test_charts import drawn
from updp_rt.artifacts.describe import describe_model
from updp_rt.comparison import CompareConfig, Job, Standing, front
from updp_rt.comparison.jobs import Outcome
from updp_rt.comparison.timing import Latencies
from updp_rt.report import write_report
from updp_rt.report.charts.comparison import draw_comparison


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison that lacks one job, while another has failed."""
    config = CompareConfig(methods=("updp", "dp", "drop", "channels"), num_pruned=(3,), amounts=(0.3,), seeds=2)
    identity = describe_model(timm.create_model("mobilenetv2_035")).model_dump(mode="json", exclude_none=True)
    identity |= {"model": "small_mobilenetv2", "data": "fashion-mnist", "images": [12000, 2000, 10000]}
    identity |= {"training": {"epochs": 6}, "config": config.model_dump(mode="json")}
    (tmp_path / "compare.json").write_text(json.dumps(identity))
    (tmp_path / "rows").mkdir()
    ms = {}
    for method, goal, accuracy, latency in (
        ("baseline", 0, 0.9, 10.0),
        ("updp", 3, 0.88, 6.0),
        ("dp", 3, 0.87, 7.0),
        ("channels", 0.3, 0.86, 8.0),
    ):
        for seed in (0, 1):
            row = Outcome(method=method, goal=goal, seed=seed, accuracy=accuracy + 0.01 * seed, pruned=3, params=9000)
            key = Job(method, goal, seed).key
            (tmp_path / "rows" / f"{key}.json").write_text(row.model_dump_json())
            ms[key] = latency
    failed = Outcome(method="drop", goal=3, seed=0, failed="DivergedError: <too> large a rate")
    (tmp_path / "rows" / "drop-3-seed-0.json").write_text(failed.model_dump_json())
    found = Latencies(device="cpu (1 threads)", batch_size=32, accelerated=True, ms=ms)
    (tmp_path / "latency.json").write_text(found.model_dump_json())
    return tmp_path


def test_the_page_says_all_of_it_once(folder: Path) -> None:
    path, missing = write_report(folder)
    page = path.read_text(encoding="utf-8")
    assert page.count('id="chart-comparison"') == 1
    assert "drop 3, seed 0" in {part for part, _ in missing}
    assert any("drop 3 (seed 1)" in gap.reason for _, gap in missing)
    assert "&lt;too&gt; large" in page
    assert "88.50 ± 0.71" in page
    assert "1.67×" in page
    # Beside ours, in a column of its own: never among the measured accuracies.
    (row,) = [line for line in page.split("<tr>") if ">dp 3<" in line and "MobileNetV2" in line]
    cells = row.split("<td")
    assert "72.89 to 72.83%, 1.41× on an RTX 2080 Ti" in cells[-1]
    assert not any("72.8" in cell for cell in cells[:-1])
    assert "published, on ImageNet" in page


def test_without_latencies_there_is_no_picture_but_a_table(folder: Path) -> None:
    (folder / "latency.json").unlink()
    path, missing = write_report(folder)
    assert missing[0][0] == "the picture"
    assert "not measured" in path.read_text(encoding="utf-8")


def standing(method: str, accuracy: float, ms: float, seeds: int = 3) -> Standing:
    accuracies = tuple(accuracy + 0.002 * seed for seed in range(seeds))
    times = tuple(ms * (1 + 0.01 * seed) for seed in range(seeds))
    zeros = (0,) * seeds
    return Standing(method, 2, tuple(range(seeds)), accuracies, zeros, zeros, zeros, (1.0,) * seeds, times)


@pytest.mark.parametrize("seeds", [1, 3])
def test_points_spreads_and_front_are_drawn(seeds: int) -> None:
    rows = [standing("baseline", 0.9, 10, seeds), standing("updp", 0.89, 6, seeds), standing("dp", 0.85, 7, seeds)]
    best = front(rows)
    assert [row.method for row in best] == ["updp", "baseline"]
    text = drawn(draw_comparison(rows, best, "batch 8 on a device", "100 test images"))
    assert text.count('class="whisker"') == 2 * 2 * 3  # both ways, on both widths
    assert text.count('class="front"') == 2
    assert 'class="point-baseline"' in text
    assert "updp 2: 89." in text


def test_one_point_alone_and_many_in_one_place_are_drawn() -> None:
    alone = [standing("baseline", 0.5, 1.0, 1)]
    drawn(draw_comparison(alone, front(alone), "there", "images"))
    crowd = [standing(f"method-{number}", 0.5, 1.0) for number in range(12)]
    drawn(draw_comparison(crowd, front(crowd), "there", "images"))
