"""How the command line is put together."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import updp_rt.cli

FOLDER = Path(updp_rt.cli.__file__).parent


def _needs(path: Path) -> set[str]:
    """Modules of the command line that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "updp_rt.cli":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("updp_rt.cli."):
            found.add(str(node.module).removeprefix("updp_rt.cli."))
    return found


def test_no_module_imports_in_a_circle() -> None:
    needs = {path.stem: _needs(path) for path in FOLDER.glob("*.py")}
    assert "app" in needs["models"]  # it finds what it looks for
    TopologicalSorter(needs).prepare()  # raises CycleError


def test_nothing_is_imported_against_the_linter() -> None:
    assert not [path.name for path in FOLDER.glob("*.py") if "F401" in path.read_text(encoding="utf-8")]
