"""The package as a whole: what importing it does, and which way its parts depend on each other."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
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
    "methods",
    "ops",
    "kernels",
    "backends",
    "verification",
    "runtime",
    "projection",
    "comparison",
    "report",
    "deployment",
    "conversion",
    "cli",
]


def _files(part: str = "") -> list[Path]:
    """The Python files of a part, or of all; kernels are a link, which is not followed from above."""
    folders = [ROOT / part] if part else [ROOT, ROOT / "kernels"]
    return sorted(path for folder in folders for path in folder.resolve().rglob("*.py"))


def _module(path: Path) -> list[str]:
    """The package that relative imports of a file start from."""
    kernels = (ROOT / "kernels").resolve()
    inside = (
        ("kernels", *path.relative_to(kernels).parts) if path.is_relative_to(kernels) else path.relative_to(ROOT).parts
    )
    return ["updp_rt", *inside[:-1]]


def _imports(path: Path) -> set[str]:
    """Parts of updp_rt that a file imports, wherever in the file."""
    found = set()
    package = _module(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            whole = ".".join([*above, node.module] if node.module else above)
            names = [f"{whole}.{alias.name}" for alias in node.names] if whole == "updp_rt" else [whole]
        found |= {name.split(".")[1] for name in names if name.startswith("updp_rt.")}
    return found


def test_every_part_has_a_place_in_the_order() -> None:
    assert sorted(p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()) == sorted(ORDER)


@pytest.mark.parametrize("part", ORDER)
def test_imports_run_one_way(part: str) -> None:
    allowed = set(ORDER[: ORDER.index(part) + 1]) | {
        "_copies",
        "_marks",
        "_names",
        "_progress",
        "_timing",
        "_torchvision",
        "_cache",
        "_launcher",
        "_seen",
    }
    assert _files(part)
    for path in _files(part):
        assert _imports(path) <= allowed, path


def test_contributing_names_the_order() -> None:
    text = " ".join((ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert f"in this order: {', '.join(ORDER)}. A part may import" in text


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
    long = {str(path): count for path in _files() if (count := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize(("name", "there"), [("kernels", True), ("tests", False), ("benchmarks", False)])
def test_of_the_folders_beside_it_the_package_holds_the_kernels_alone(name: str, there: bool) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec('updp_rt.{name}') is not None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == str(there)


def test_a_wheel_holds_the_kernels_and_nothing_beside_the_package() -> None:
    """By what the build is told: its packages, and the files beside them."""
    from setuptools import find_packages

    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = find_packages(str(ROOT.parent), include=["updp_rt*"])
    assert {"updp_rt.kernels", "updp_rt.kernels.hip", "updp_rt.kernels.triton"} <= set(packages)
    assert not {name for name in packages if name.split(".")[1:2] in (["tests"], ["benchmarks"])}
    given = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT.parent / package.replace(".", "/")).glob(pattern)
    }
    wanted = [p for kind in ("*.hip", "*.h", "objects/*/*") for p in (ROOT / "kernels" / "hip").glob(kind)]
    wanted += (ROOT / "kernels" / "triton" / "budgets").glob("*.json")
    assert len(wanted) > 20
    assert set(wanted) <= given
    of_gfx908 = sum(path.stat().st_size for path in wanted if path.parent.name == "gfx908")
    assert 0 < of_gfx908 <= 15 << 20  # a wheel has two architectures, and at most 30 MB
