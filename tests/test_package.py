"""The package as a whole: what importing it does, and which way its parts depend on each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import updp_rt

ROOT = Path(updp_rt.__file__).parent

# Each part may import those before it, and itself; DESIGN's directions as one order.
ORDER = [
    "emulator",
    "reparam",
    "blocks",
    "channels",
    "artifacts",
    "data",
    "pruning",
    "ops",
    "kernels",
    "backends",
    "verification",
    "runtime",
    "projection",
    "report",
    "cli",
]


def _imports(path: Path) -> set[str]:
    """Parts of updp_rt that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("updp_rt.")}
    return found


def test_every_part_has_a_place_in_the_order() -> None:
    assert sorted(p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()) == sorted(ORDER)


@pytest.mark.parametrize("part", ORDER)
def test_imports_run_one_way(part: str) -> None:
    allowed = set(ORDER[: ORDER.index(part) + 1]) | {"_cache", "_copies", "_marks", "_timing", "_torchvision"}
    for path in (ROOT / part).resolve().rglob("*.py"):  # the kernels' folder is a link
        assert _imports(path) <= allowed, path


def test_reparam_knows_no_model_and_no_data() -> None:
    for path in (ROOT / "reparam").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import timm" not in text
        assert "from timm" not in text


def test_import_is_quick_and_touches_no_gpu() -> None:
    code = "import sys, updp_rt; print([m for m in ('torch', 'timm', 'triton', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", updp_rt.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(updp_rt, name).__doc__


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = updp_rt.nonsense


def test_files_hold_what_one_reading_holds() -> None:
    long = {str(path): count for path in ROOT.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert not long
