"""The page in a browser: drawn, within the window, quiet, and usable by keyboard, in light and dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.browser import Browser
from updp_rt.report import write_report


@pytest.fixture(scope="module")
def page(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(whole, tmp_path_factory.mktemp("page") / "report.html")[0]


@pytest.fixture(scope="module")
def page_of_a_model(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(whole / "merged", tmp_path_factory.mktemp("page") / "model.html")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_is_drawn_and_quiet(browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    with Image.open(browser.screenshot(tmp_path / "page.png", whole=True)) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.complaints == []
    assert pixels.shape[0] > 2000
    paper = pixels[2, 2]
    assert (paper.mean() < 60) if dark else (paper.mean() > 230)
    drawn = np.abs(pixels - paper).sum(axis=2) > 60
    assert 0.02 < drawn.mean() < 0.6
    assert len(np.unique(pixels[::5, ::5].reshape(-1, 3), axis=0)) > 200
    bands = np.array_split(drawn, max(1, len(drawn) // 450))
    assert all(band.any() for band in bands), "a screenful is blank"


# Elements wider than the window, or beyond its edges; what stands in a box that scrolls by itself may be.
_BEYOND = """
[...document.querySelectorAll("body *")].filter((element) => {
  if (element.closest(".scroll") && !element.matches(".scroll")) return false;
  if (element.matches(".skip, .unseen")) return false;
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.height > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map((element) => element.outerHTML.slice(0, 120))
"""


@pytest.mark.parametrize("width", [1280, 820, 390, 320])
@pytest.mark.parametrize("details", [False, True], ids=["closed", "open"])
def test_nothing_stands_beyond_the_window(browser: Browser, page: Path, width: int, details: bool) -> None:
    browser.open(page, width=width)
    if details:
        browser.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(_BEYOND) == []


# Pairs of labels of one chart that overlap.
_COLLISIONS = """
[...document.querySelectorAll(".plot")].filter((plot) => plot.getBoundingClientRect().width > 0).flatMap((plot) => {
  const boxes = [...plot.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
  const hit = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  return boxes.flatMap(([said, box], i) =>
    boxes.slice(i + 1).filter(([, other]) => hit(box, other)).map(([other]) => `${said} | ${other}`));
})
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_label_covers_another(browser: Browser, page: Path, page_of_a_model: Path, width: int) -> None:
    for each in (page, page_of_a_model):
        browser.open(each, width=width)
        assert browser.evaluate(_COLLISIONS) == []


def test_one_drawing_of_each_chart_is_shown_at_a_width(browser: Browser, page: Path) -> None:
    for width, shown in ((1280, "wide"), (390, "narrow")):
        browser.open(page, width=width)
        visible = browser.evaluate(
            "[...document.querySelectorAll('.plot')].filter((p) => p.getBoundingClientRect().width > 0)"
            ".map((p) => p.classList[1])"
        )
        assert visible == [shown] * browser.evaluate("document.querySelectorAll('figure').length")


def test_the_keyboard_reaches_charts_and_their_marks(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(60):
        browser.press("Tab")
        reached.append(browser.evaluate("document.activeElement.closest('figure')?.id ?? ''"))
        if reached[-1] == "chart-subnet":
            break
    assert [name for name in dict.fromkeys(reached) if name] == [
        f"chart-{name}" for name in ("strip", "speed", "search", "supernet", "subnet")
    ]
    browser.evaluate("document.querySelector('#chart-strip .wide').focus()")
    assert "solid" in browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    said = "document.querySelector('#chart-strip .readout').textContent"
    browser.press("ArrowRight")
    first = browser.evaluate(said)
    assert first.startswith("blocks.0")
    browser.press("ArrowRight")
    assert browser.evaluate(said) not in ("", first)
    browser.press("Escape")
    assert "arrow keys" in browser.evaluate(said)


def test_a_screen_reader_is_given_names(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = browser.accessible()
    images = [node["name"] for node in nodes if node["role"] in ("image", "img")]
    assert len(images) >= browser.evaluate("document.querySelectorAll('figure').length")
    for role in ("image", "img", "table", "link", "button", "region", "navigation"):
        assert all(node["name"] for node in nodes if node["role"] == role), role


def test_the_theme_is_the_system_s_until_the_button_says_otherwise(browser: Browser, page: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    browser.open(page)
    light = browser.evaluate(paper)
    browser.open(page, dark=True)
    dark = browser.evaluate(paper)
    assert light != dark
    button = "document.getElementById('theme')"
    assert browser.evaluate(f"{button}.hidden") is False
    browser.evaluate(f"{button}.focus()")
    browser.press("Enter")
    assert browser.evaluate(paper) == light
    assert browser.evaluate(f"{button}.textContent") == "Dark theme"
    browser.evaluate("localStorage.clear()")


def test_tables_sort_by_value(browser: Browser, page: Path) -> None:
    browser.open(page)
    column = "[...document.querySelectorAll('#chart-search tbody tr')].map((row) => Number(row.cells[2].dataset.key))"
    browser.evaluate("document.querySelector('#chart-search details').open = true")
    for direction, ordered in (("ascending", sorted), ("descending", lambda values: sorted(values, reverse=True))):
        browser.evaluate("document.querySelectorAll('#chart-search th button')[2].click()")
        assert browser.evaluate("document.querySelectorAll('#chart-search th')[2].ariaSort") == direction
        assert browser.evaluate(column) == ordered(browser.evaluate(column))
