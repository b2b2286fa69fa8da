"""What README and docs show is what happens: snippets run, commands parse, links and pictures lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm

import updp_rt
from tests.marks import service, slow

ROOT = Path(updp_rt.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages that stand beside the code they describe.
READMES = [
    path for part in ("kernels", "csrc", "updp_rt", "benchmarks") for path in sorted((ROOT / part).rglob("*.md"))
]

# One process for all of them, so that torch is imported once; each snippet has a namespace of its own.
RUN = """
import json, sys, traceback
from tests.conftest import measured_in_passing
failed = {}
with measured_in_passing():
    for name, snippet in json.load(sys.stdin).items():
        try:
            exec(compile(snippet, name, "exec"), {"__name__": "__main__"})
        except BaseException:
            failed[name] = traceback.format_exc()
sys.exit("\\n".join(f"{name}\\n{error}" for name, error in failed.items()) or 0)
"""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(path: Path, language: str) -> list[str]:
    """Contents of a page's fenced blocks in one language; those without a name hold commands."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for found, text in fences if found == language]


def _lines() -> Iterator[tuple[str, str]]:
    """Every shown line of a command, with the page that it stands on; continued lines are one."""
    for page in PAGES:
        for block in _blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                yield _name(page), line.strip()


def _commands(start: str) -> list[Any]:
    """Arguments of the shown commands that begin so, a test parameter each."""
    found = {}
    for page, line in _lines():
        if line.startswith(start + " "):
            found.setdefault(
                line, pytest.param(shlex.split(line, comments=True)[len(start.split()) :], id=f"{page}: {line}")
            )
    return list(found.values())


def _group(page: Path, snippet: str) -> str:
    """Quick are the front page's and those that show how to extend; others take longer, or need another package."""
    if re.search(r"^import transformers$", snippet, re.MULTILINE):
        return "service"
    return "quick" if page.name in ("README.md", "extending.md") else "slow"


@pytest.mark.parametrize(("group", "fewest"), [("quick", 6), slow("slow", 8), service("service", 1)])
def test_python_snippets_run(group: str, fewest: int, tmp_path: Path) -> None:
    snippets = {
        f"{_name(page)}, snippet {number}": text
        for page in PAGES
        for number, text in enumerate(_blocks(page, "python"), 1)
        if _group(page, text) == group
    }
    assert len(snippets) >= fewest
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(snippets),
        cwd=tmp_path,
        env=os.environ | {"UPDP_RT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-6000:]


def _parse(app: Any, name: str, arguments: list[str]) -> None:
    """Parse a command line; raises on unknown commands and options, missing arguments and wrong values."""
    from typer.main import get_command

    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert arguments, f"{name} asks for a command"
        assert arguments[0] in command.commands, f"{name} has no command {arguments[0]}"
        command = command.commands[arguments[0]]
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    command.make_context(name, list(arguments))


@pytest.mark.parametrize("arguments", _commands("updp-rt"))
def test_commands_take_what_is_shown(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from updp_rt.cli import app

    monkeypatch.chdir(tmp_path)
    # Some commands look whether it is there: a path, or the folder that another command wrote, in a model's place.
    for path in (Path(a) for i, a in enumerate(arguments) if "/" in a or (i == 1 and not timm.is_model(a))):
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.touch()
    _parse(app, "updp-rt", arguments)


@pytest.mark.parametrize("arguments", _commands("python -m"))
def test_modules_take_what_is_shown(arguments: list[str]) -> None:
    assert importlib.util.find_spec(arguments[0]) is not None
    if arguments[0] == "benchmarks":
        from benchmarks.commands import app

        _parse(app, "benchmarks", arguments[1:])


def test_every_command_is_shown() -> None:
    from typer.main import get_command

    from benchmarks.commands import app as benchmarks
    from updp_rt.cli import app

    def walk(command: Any, path: str) -> Iterator[str]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, f"{path} {name}")
        if not hasattr(command, "commands"):
            yield path

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    commands = [*walk(get_command(app), "updp-rt"), *walk(get_command(benchmarks), "python -m benchmarks")]
    assert not [path for path in commands if f"\n{path} " not in page]


@pytest.mark.parametrize("arguments", _commands("make"))
def test_make_has_the_targets_shown(arguments: list[str]) -> None:
    subprocess.run(["make", "--dry-run", arguments[0]], cwd=ROOT, check=True, capture_output=True)


def test_the_readme_s_figures_are_those_measured() -> None:
    from benchmarks.results import RESULTS, by_case, read
    from benchmarks.suites.engines import OTHERS
    from benchmarks.suites.models import most_pruned

    rows = read(RESULTS / "intel-r-xeon-r-processor-2-threads" / "engines.csv").rows
    cases = {name: case for name, case in by_case(rows).items() if " b8 float32 " in name}
    found = {case["P0 eager"]["model"]: case for case in cases.values()}
    shown = 0
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        model, *cells = [cell.strip(" ×") for cell in line.strip("|").split("|")]
        if model in found:
            case = found[model]
            names = [f"P0 {mode}" for mode in (*OTHERS, "modules", "auto")]
            times = [case[name]["median_ms"] for name in (*names, f"{most_pruned(list(case.values()))} auto")]
            assert cells == [*(f"{ms:.1f}" for ms in times), f"{min(times[: len(OTHERS)]) / times[-1]:.2f}"]
            shown += 1
    assert shown == 4


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=_name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert linked >= {_name(page) for page in PAGES if page.parent == ROOT / "docs"}


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_package_says_what_it_is() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert all(part in about["description"] for part in ("depth pruning", "channel pruning", "kernels"))
    assert about["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert about["version"] == updp_rt.__version__
    sections = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[:2] == ["Unreleased", updp_rt.__version__]
