"""The page as text: well formed, self-contained, accessible by its structure, and safe whatever the files say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.marks import slow
from tests.report.html import Node, read_html
from updp_rt.report import write_report
from updp_rt.report.collect import collect
from updp_rt.report.page import render
from updp_rt.report.schema import Identity

Copy = Callable[[Path], Path]
CHARTS = ["strip", "speed", "search", "supernet", "subnet", "block-times", "roofline", "errors", "ulps"]


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return render(collect(whole))[0]


@pytest.fixture(scope="module")
def tree(page: str) -> Node:
    return read_html(page)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_a_finished_run_lacks_nothing(whole: Path, tree: Node) -> None:
    html, missing = render(collect(whole))
    assert missing == []
    assert "Missing:" not in html
    assert [figure.attributes["id"] for figure in tree.all("figure")] == [f"chart-{name}" for name in CHARTS]
    assert tree.all("h2")[0].text == "Blocks before and after"


def test_the_same_folder_gives_the_same_page(whole: Path, page: str) -> None:
    assert render(collect(whole))[0] == page


def test_nothing_is_loaded_from_anywhere(page: str, tree: Node) -> None:
    for node in tree.all():
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            assert re.match(r"(#|data:)", node.attributes.get(name, "#")), (node.tag, name)
        assert "style" not in node.attributes, "the page's policy would refuse it"
        assert not any(name.startswith("on") for name in node.attributes)
    assert not re.search(r"https?:|@import|url\(", page)


def test_the_policy_allows_just_what_is_in_the_page(tree: Node) -> None:
    (policy,) = (m.attributes["content"] for m in tree.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (node,) = tree.all(tag)
        digest = base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_structure(tree: Node) -> None:
    (html,) = tree.all("html")
    assert html.attributes["lang"] == "en"
    assert len(tree.all("h1")) == len(tree.all("main")) == len(tree.all("title")) - 2 * len(CHARTS) - _marks(tree) == 1
    levels = [int(node.tag[1]) for node in tree.all("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = {node.attributes["id"] for node in tree.all() if "id" in node.attributes}
    for node in tree.all():
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(node.attributes.get(name, "").split()) <= ids
        if node.attributes.get("href", "").startswith("#"):
            assert node.attributes["href"][1:] in ids


def _marks(tree: Node) -> int:
    return sum(node.attributes.get("class") == "mark" for node in tree.all("g"))


def test_every_chart_has_a_name_a_description_and_its_data_as_a_table(tree: Node) -> None:
    for figure in tree.all("figure"):
        plots = [svg for svg in figure.all("svg") if svg.attributes.get("role") == "img"]
        assert [plot.attributes["class"] for plot in plots] == ["plot wide", "plot narrow"]
        for plot in plots:
            title, description = plot.children[:2]
            assert isinstance(title, Node)
            assert isinstance(description, Node)
            assert (title.tag, description.tag) == ("title", "desc")
            assert title.text
            assert len(description.text) > 20
            assert plot.attributes["aria-labelledby"] == title.attributes["id"]
            assert plot.attributes["tabindex"] == "0"
            assert any(group.attributes.get("class") == "mark" for group in plot.all("g"))
        assert len(figure.all("details")) == len(figure.all("table")) == 1


def test_every_table_has_a_caption_and_scopes(tree: Node) -> None:
    tables = tree.all("table")
    assert len(tables) >= len(CHARTS)
    for table in tables:
        assert table.all("caption")[0].text
        widths = {len(row.all("th", "td")) for row in table.all("tr")}
        assert len(widths) == 1
        for head in table.all("th"):
            assert head.attributes["scope"] in ("col", "row")


def test_figures_are_those_of_the_files(whole: Path, page: str) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert f"{100 * summary['merged']['accuracy']:.2f}%" in page
    for name in summary["blocks"]:
        assert f"{name} (Block) → merged (" in page
    profile = json.loads((whole / "profile.json").read_text())
    assert {k["module"] for k in profile["kernels"]} <= {node.text for node in read_html(page).all("th")}


def test_the_head_s_figures_are_of_one_batch_size(whole: Path, copy_of: Copy) -> None:
    """The run's were taken at 16; the profile's at 2, as `updp-rt profile --batch 2` leaves them."""
    folder = copy_of(whole)
    change(folder / "profile.json", lambda found: found.update(input=[2, *found["input"][1:]]))
    html, _ = render(collect(folder))
    tiles = [node.text for node in read_html(html).all("dt")]
    assert [tile for tile in tiles if "batch" in tile] == ["latency, batch 2", "on fused kernels, batch 2"]
    profile = json.loads((folder / "profile.json").read_text())["model"]
    assert f"{profile['baseline'] / profile['merged']:.2f}× (batch 2)" in html
    (folder / "profile.json").unlink()
    assert "latency, batch 16" in render(collect(folder))[0]


def test_the_prediction_is_compared_with_what_was_measured(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    found = {"kernels": "fused kernels", "predicted_speedup": 1.25, "measured_speedup": 1.0, "off": 0.25}
    change(folder / "summary.json", lambda s: s.update(prediction=found))
    text = " ".join(read_html(render(collect(folder))[0]).text.split())
    assert "On fused kernels the search predicted 1.25× for the merged model" in text
    assert "measured beside the baseline it is 1.00×: its latency is 25% more than predicted" in text
    change(folder / "summary.json", lambda s: s["prediction"].update(off=0.03))
    assert "as predicted, within 5%" in render(collect(folder))[0]
    change(folder / "summary.json", lambda s: s.update(prediction=None))
    assert "predicted" not in read_html(render(collect(folder))[0]).text


def test_a_search_of_several_numbers_of_blocks_advises_on_it(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    words = "How many blocks to prune"
    assert words not in render(collect(folder))[0], "all candidates have three"
    found = [(("blocks.1",), 0.8, 3.0), (("blocks.2",), 0.6, 3.0), (("blocks.1", "blocks.2"), 0.5, 2.0)]
    candidates = [{"blocks": b, "accuracy": a, "latency_ms": ms} for b, a, ms in found]
    change(folder / "search.json", lambda s: s.update(candidates=candidates, chosen=candidates[2]))
    change(folder / "latency.json", lambda table: table.update(model_ms=4.0))
    change(folder / "summary.json", lambda s: s["baseline"].update(val_accuracy=1.0))
    (table,) = (t for t in read_html(render(collect(folder))[0]).all("table") if words in t.all("caption")[0].text)
    cells = [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")[1:]]
    assert cells[0] == ["1", "80.00%", "80.0%", "3.00\N{NO-BREAK SPACE}ms", "1.33×", "blocks.1"]
    assert cells[1][:3] == ["2", "50.00%", "50.0%"]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough(tree: Node, scheme: int) -> None:
    """WCAG AA: 4.5 for text; 3 for marks that carry meaning, against the page."""
    found = re.findall(r"--([\w-]+): light-dark\(#(\w{6}), #(\w{6})\)", tree.all("style")[0].text)
    colours = {name: pair[scheme] for name, *pair in found}
    text = ("ink", "soft", "new", "pass", "fail", "point")
    for name in text:
        for ground in ("paper", "raised"):
            assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert _contrast(colours["ink"], colours["kept"]) >= 4.5
    assert _contrast(colours["ink"], colours["new-soft"]) >= 4.5
    assert _contrast(colours["on-new"], colours["new"]) >= 4.5
    for name in ("new", "fast", "point", "violet", "gold", "old-fast", "focus"):
        assert _contrast(colours[name], colours["paper"]) >= 3, name


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


PARTS = {
    "summary.json": ["accuracy and cost"],
    "search.json": ["search front"],
    "history.csv": ["training curves"],
    "lambda.csv": ["λ by step"],
    "log.txt": ["training of the supernet"],
    "profile.json": ["speed with and without fused kernels", "block times and roofline"],
    "merged/certificate.json": ["certificate"],
    "merged/manifest.json": ["saved model"],
    "latency.json": [],  # the profile says more
    "run.json": [],  # the manifest says as much
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["gone", slow("cut short"), slow("another")])
def test_what_is_missing_is_said_and_the_rest_is_there(whole: Path, copy_of: Copy, name: str, damage: str) -> None:
    folder = copy_of(whole)
    path = folder / name
    text = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text({"cut short": text[: len(text) // 2], "another": '{"format": 3}\n'}[damage])
    if name == "log.txt" and damage == "cut short":
        return  # what is left of a log is still one
    html, missing = render(collect(folder))
    assert [part for part, _ in missing] == PARTS[name]
    tree = read_html(html)
    for part, gap in missing:
        assert f"Missing: {part}." in tree.text
        assert gap.reason in tree.text
        assert gap.command is None or gap.command.line in tree.text
    assert len(tree.all("figure")) >= len(CHARTS) - 3
    assert str(folder) not in html


def test_a_run_that_was_stopped_early(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    for path in [*(folder / "merged").iterdir(), *folder.iterdir()]:
        if path.is_file() and path.name not in ("run.json", "latency.json", "log.txt"):
            path.unlink()
    html, missing = render(collect(folder))
    assert len(missing) == 8
    tree = read_html(html)
    assert tree.all("h1")[0].text == "test_vitnot merged yet"
    assert not tree.all("figure")


def test_a_saved_model(whole: Path) -> None:
    html, missing = render(collect(whole / "merged"))
    tree = read_html(html)
    shown = [figure.attributes["id"] for figure in tree.all("figure")]
    assert shown == ["chart-strip", "chart-errors", "chart-ulps"]
    assert "nothing was timed" in tree.text
    assert {gap.command.line for _, gap in missing if gap.command} == {
        "updp-rt profile .",
        "updp-rt prune MODEL … --out FOLDER",
    }


def test_without_a_profile_the_run_s_own_table_gives_the_blocks_widths(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    (folder / "profile.json").unlink()
    assert "by the run's table: batch 16" in read_html(render(collect(folder))[0]).text


def test_a_profile_or_certificate_of_other_weights_is_doubted(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    change(folder / "profile.json", lambda found: found.update(weights="0" * 64))
    change(folder / "merged" / "certificate.json", lambda found: found["model"].update(weights_sha256="0" * 64))
    tree = read_html(render(collect(folder))[0])
    doubts = [p.text for p in tree.all("p") if p.attributes.get("class") == "doubt"]
    assert len(doubts) == 2
    assert all("other weights" in doubt for doubt in doubts)
    assert "in doubt" in [span.text for span in tree.all("span")]


def test_a_certificate_whose_model_is_damaged_is_doubted(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    (weights,) = (folder / "merged").glob("*.safetensors")
    weights.write_bytes(b"nothing")
    assert "cannot be said to be its certificate" in render(collect(folder))[0]


@pytest.mark.parametrize("where", ["module", "logits", "top-1"])
def test_a_failed_certificate_is_called_so_whichever_part_failed(whole: Path, copy_of: Copy, where: str) -> None:
    folder = copy_of(whole)

    def fail(found: dict[str, Any]) -> None:
        if where == "top-1":
            found["logits"].update(disagree=1)
        else:
            figures = found["modules"][1]["cases"][0] if where == "module" else found["logits"]
            figures.update(error=2 * figures["bound"])

    change(folder / "merged" / "certificate.json", fail)
    tree = read_html(render(collect(folder))[0])
    assert "FAILED" in [span.text for span in tree.all("span")]
    assert "Not within their bounds: " in tree.text


def test_errors_that_are_no_numbers_are_drawn_beyond_the_bound(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)

    def spoil(found: dict[str, Any]) -> None:
        found["modules"][0]["cases"][0].update(error=float("nan"))
        found["modules"][1]["cases"][0].update(error=float("inf"), bound=0.0)
        found["modules"][2]["cases"] = []

    change(folder / "merged" / "certificate.json", spoil)
    html, missing = render(collect(folder))
    assert missing == []
    drawn = [node for node in read_html(html).all("circle") if node.attributes.get("class") == "ours"]
    assert not any(value in ("nan", "inf") for node in drawn for value in node.attributes.values())


HOSTILE = """</title></script><script>alert(1)</script>"'><img src=x onerror=alert(1)>&amp;{{ 7 * 7 }}"""


def test_hostile_words_stay_words(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    change(folder / "summary.json", lambda s: s.update(device=HOSTILE, evaluated_on=HOSTILE))
    change(folder / "run.json", lambda r: r["config"].update({HOSTILE: HOSTILE}))
    change(folder / "search.json", lambda s: [c.update(blocks=[HOSTILE]) for c in s["candidates"]])
    change(folder / "profile.json", lambda p: [k.update(module=HOSTILE, problem=HOSTILE) for k in p["kernels"]])
    change(folder / "profile.json", lambda p: p.update(device=HOSTILE, dtype=HOSTILE, environment={HOSTILE: HOSTILE}))
    change(folder / "merged/certificate.json", lambda c: c["modules"][0].update(name=HOSTILE, replaces=[HOSTILE]))
    change(folder / "merged/certificate.json", lambda c: c["modules"][0]["cases"][0].update(inputs=HOSTILE))
    change(folder / "merged/certificate.json", lambda c: c.update(sources={HOSTILE: HOSTILE}))
    renamed = folder.rename(folder.with_name("<script>alert(2)<"))
    html, missing = render(collect(renamed))
    tree = read_html(html)
    assert missing == []
    assert len(tree.all("script")) == 1
    assert not tree.all("img")
    assert tree.text.count(HOSTILE) > 20, "each is shown as it stands"


@pytest.mark.parametrize(
    "wrong", [{"architecture": "../../etc/passwd"}, {"input_size": [3, 7, 7]}, {"input_size": [0, 0, 0]}]
)
def test_a_manifest_that_describes_no_model(whole: Path, copy_of: Copy, wrong: dict[str, Any]) -> None:
    folder = copy_of(whole)
    change(folder / "merged" / "manifest.json", lambda manifest: manifest.update(wrong))
    html, missing = render(collect(folder))
    assert "blocks before and after" in [part for part, _ in missing]
    read_html(html)


def test_numbers_that_are_none_are_damage(whole: Path, copy_of: Copy) -> None:
    folder = copy_of(whole)
    (folder / "profile.json").unlink()
    change(folder / "search.json", lambda found: found["candidates"][0].update(latency_ms=float("nan")))
    change(folder / "latency.json", lambda found: found.update(model_ms=float("inf")))
    html, missing = render(collect(folder))
    assert dict(missing)["search front"].reason == "search.json is damaged: it holds NaN or infinity."
    assert "nothing was timed" in html, "the blocks' widths do without the table"


@pytest.mark.parametrize("config", ["[]", "3", '"words"', "null"])
def test_a_run_whose_settings_are_no_settings(whole: Path, copy_of: Copy, config: str) -> None:
    folder = copy_of(whole)
    change(folder / "run.json", lambda run: run.update(config=json.loads(config)))
    assert render(collect(folder))[1] == []
    (folder / "merged" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"run.json is damaged: config: .*, and no other file names the model"):
        collect(folder)


def test_a_folder_that_holds_nothing_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither the folder of a pruning run .* nor of a saved model"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="manifest"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_goal_is_a_share_of_the_latency_however_it_was_given() -> None:
    known = {"architecture": "resnet18", "model_args": {}, "input_size": (3, 32, 32)}
    goals: list[tuple[dict[str, object], float | None]] = [
        ({"max_latency": 0.7}, 0.7),
        ({"max_latency": None, "target_speedup": 1.25}, 0.8),
        ({"front": True}, None),
        ({"num_pruned": 3, "target_speedup": None}, None),
        ({"target_speedup": "fast"}, None),
    ]
    for config, share in goals:
        assert Identity.model_validate({**known, "config": config}).max_latency == share
