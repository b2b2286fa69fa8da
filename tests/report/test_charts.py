"""Scales, numbers, and charts of data that is at the edge of what there can be."""

from __future__ import annotations

import re

import pytest

from updp_rt.pruning.search import Candidate, SearchResult
from updp_rt.report.charts.bars import draw_block_times
from updp_rt.report.charts.roofline import draw_roofline
from updp_rt.report.charts.scale import Scale, error, log_range, padded, quantity, significant, tick_labels
from updp_rt.report.charts.search import draw_search
from updp_rt.report.charts.strip import Block, Strips, draw_strips
from updp_rt.report.charts.svg import Chart, element
from updp_rt.report.charts.training import draw_subnet, draw_supernet
from updp_rt.report.schema import Epoch, KernelTime, Roof, Times


def drawn(chart: Chart) -> str:
    """The chart's SVG; fails where a coordinate is no number or a table's row has the wrong width."""
    text = "".join(drawing.render() for drawing in chart.drawings.values())
    assert not re.search(r'="-?(nan|inf)', text)
    assert all(len(row) == len(chart.table.columns) for row in chart.table.rows)
    return text


@pytest.mark.parametrize(
    ("low", "high", "count", "labels"),
    [
        (0, 10, 5, ["0", "2", "4", "6", "8", "10"]),
        (0, 0.7, 4, ["0.0", "0.2", "0.4", "0.6"]),
        (95.1, 96.9, 4, ["95.5", "96.0", "96.5"]),
        (-0.1, 0.1, 2, ["-0.1", "0.0", "0.1"]),
    ],
)
def test_ticks_are_round_and_written_alike(low: float, high: float, count: int, labels: list[str]) -> None:
    scale = Scale(low, high, 0, 100)
    assert tick_labels(scale.ticks(count), scale) == labels


def test_ticks_of_a_logarithm() -> None:
    scale = Scale(0.1, 20, 0, 100, log=True)
    assert tick_labels(scale.ticks(9), scale) == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]
    wide = Scale(1e-6, 1e3, 0, 100, log=True)
    assert tick_labels(wide.ticks(5), wide) == ["1e-06", "1e-04", "0.01", "1", "100"]


def test_scales_keep_what_is_beyond_them_at_their_ends() -> None:
    scale = Scale(1, 100, 10, 110, log=True)
    assert [scale(v) for v in (10, 1e9, 0, -1, float("inf"), float("nan"))] == [60, 110, 10, 10, 110, 110]
    assert Scale(3, 3, 0, 100)(3) == 50


def test_ranges() -> None:
    assert padded([5.0], least=1.0) == (4.5, 5.5)
    low, high = padded([1.0, 2.0])
    assert low < 1.0
    assert high > 2.0
    assert log_range([0.13, 0.4]) == (0.1, 1.0)
    assert log_range([]) == pytest.approx((0.5, 5.0))
    for value in (1.0, 1e-300, 3e20):
        low, high = log_range([value])
        assert low < value < high


@pytest.mark.parametrize(
    ("value", "text"), [(0.28349, "0.283"), (7.5519, "7.55"), (21.72, "21.7"), (1234.5, "1234"), (0.0, "0")]
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_numbers_in_words() -> None:
    assert quantity(5489482) == "5.49\N{NO-BREAK SPACE}M"
    assert quantity(950) == "950"
    assert error(0.0) == "0"
    assert error(3.14e-7) == "3.1e\N{MINUS SIGN}7"
    assert error(float("inf")) == "inf"


def test_elements_are_escaped() -> None:
    assert element("text", "<b>", x=1.0, class_='"') == '<text x="1" class="&#34;">&lt;b&gt;</text>'


def test_a_search_whose_candidates_coincide_shows_each() -> None:
    candidates = [Candidate(blocks=(f"b{i}",), accuracy=0.5, latency_ms=2.0) for i in range(6)]
    found = SearchResult(candidates=candidates, chosen=candidates[0], bodies={"b0": "full"})
    text = drawn(draw_search(found, "by the table"))
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)
    assert len(places) == len(set(places)) == 2 * 5


def test_many_that_coincide_stay_within_the_picture() -> None:
    candidates = [Candidate(blocks=(f"b{i}",), accuracy=0.5, latency_ms=2.0) for i in range(300)]
    text = drawn(draw_search(SearchResult(candidates=candidates, chosen=candidates[0], bodies={}), "by the table"))
    assert max(float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)) < 960


def test_a_search_of_one_candidate() -> None:
    one = Candidate(blocks=(), accuracy=1.0, latency_ms=2.0)
    found = SearchResult(candidates=[one], chosen=one, bodies={})
    text = drawn(draw_search(found, "by the table", baseline=(2.0, 1.0), goal_ms=1.5))
    assert text.count('class="dashed"') == 2


def test_the_front_is_a_line_and_what_it_beats_is_not_on_it() -> None:
    candidates = [Candidate(blocks=(str(ms),), accuracy=a, latency_ms=ms) for ms, a in ((1, 0.5), (2, 0.9), (3, 0.7))]
    chart = draw_search(SearchResult(candidates=candidates, chosen=candidates[1], bodies={}), "by the table")
    assert 'class="front"' in drawn(chart)
    assert [row[4].text for row in chart.table.rows] == ["yes", "", "yes"]


@pytest.mark.parametrize("lam", [None, 1.0, 0.5])
def test_one_epoch(lam: float | None) -> None:
    epoch = Epoch.model_validate({"epoch": 1, "loss": 0.0, "lambda": lam})
    drawn(draw_supernet([epoch]))
    assert "not recorded" in drawn(draw_subnet([epoch], 0.9))


def test_a_training_that_diverged_is_drawn_as_far_as_it_went() -> None:
    epochs = [Epoch.model_validate({"epoch": i, "loss": loss, "lambda": 1.0}) for i, loss in ((1, 2.0), (2, "nan"))]
    assert drawn(draw_subnet(epochs, None)).count('class="dot"') == 2
    assert "nan" in [row[2].text for row in draw_subnet(epochs, None).table.rows]


def test_strips_are_as_wide_as_their_sizes() -> None:
    blocks = [Block("s.0", "Kind", (6.0, 6.0), (10, 10), ""), Block("s.1", "Kind", (3.0, 1.0), (10, 5), "conv")]
    chart = draw_strips(Strips(["baseline", "merged"], [10.0, 8.0], blocks, "ms", "latency, ms", "Timed."))
    text = drawn(chart)
    widths = [float(w) for w in re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)" height="46"', text)]
    assert [(w + 1.5) / 958 for w in widths[:2]] == pytest.approx([0.6, 0.3], abs=1e-4)
    assert "1 of 2 blocks became merged ones: s.1. From 10.0\N{NO-BREAK SPACE}ms to 8.00" in chart.description
    assert [cell.text for cell in chart.table.rows[1]][2] == "merged: conv"


def test_blocks_that_take_longer_alone_than_the_model_stay_within_the_picture() -> None:
    blocks = [Block(f"b.{i}", "Kind", (6.0, 6.0), (10, 10), "") for i in range(3)]
    text = drawn(draw_strips(Strips(["baseline", "merged"], [10.0, 10.0], blocks, "ms", "latency, ms", "Timed.")))
    assert max(float(x) for x in re.findall(r'<rect x="([\d.]+)"', text)) < 960


def test_block_times_and_roofline_of_little() -> None:
    drawn(draw_block_times({"b": Times(baseline=1.0, merged=1.0, accelerated=1e-4)}, set()))
    kernel = KernelTime(
        module="head", source="Linear", operator="new_operator", problem="p", kernel="onednn", why="w",
        ms=1.0, others={}, roofline=0.5, flops=1, bytes=10**9,
    )  # fmt: skip
    drawn(draw_roofline([kernel], Roof(flops=1e12, bandwidth=1e10, source="measured"), "float32"))


def test_lambda_is_drawn_by_step_not_by_epoch() -> None:
    """3 epochs of 4 steps: λ rises in the first 6, where its values at the epochs' ends say nothing of that."""
    epochs = [Epoch.model_validate({"epoch": i, "step": 4 * i, "loss": 1.0, "lambda": 1.0}) for i in (1, 2, 3)]
    lambdas = [(step / 4, min(1.0, step / 6)) for step in range(12)]
    chart = draw_subnet(epochs, None, lambdas)
    assert "λ rises from 0.00 to 1 in the first 1.50 of 3 epochs" in chart.description
    (polygon,) = re.findall(r'<polygon points="([^"]+)" class="lambda"', str(chart.drawings["wide"].render()))
    corners = [tuple(map(float, point.split(","))) for point in polygon.split()]
    bottom, top = 286.0, 248.0
    left, right = corners[0][0], corners[-1][0]
    assert corners[0] == (left, bottom)
    reached = next(x for x, y in corners if y == top)
    assert (reached - left) / (right - left) == pytest.approx(0.5, abs=1e-3)
    assert all(y == top for x, y in corners[1:-1] if x >= reached)
    assert "is 1 from the start" in draw_subnet(epochs, None, [(at, 1.0) for at, _ in lambdas]).description
    assert 'class="lambda"' not in str(draw_subnet(epochs, None).drawings["wide"].render())
