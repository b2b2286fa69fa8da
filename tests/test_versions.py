"""The versions that are declared are those that `make` takes and `make matrix` tests."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import updp_rt

ROOT = Path(updp_rt.__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def _tested(variable: str) -> list[str]:
    found = re.search(rf"^{variable} := (.*)$", MAKEFILE, re.MULTILINE)
    assert found
    return found[1].split()


def _pinned(package: str) -> str:
    found = re.search(rf"^{package}==(.*)$", REQUIREMENTS, re.MULTILINE)
    assert found
    return found[1]


def test_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    minors = [name for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert [name.split(".")[-1] for name in minors] == ["11", "12", "13"]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in MAKEFILE


def test_the_oldest_torch_and_triton_that_are_promised_are_tested() -> None:
    torch, triton = (".".join(_tested(name)[0].split(".")[:2]) for name in ("TORCHES", "TRITONS"))
    assert f"torch >= {torch} and triton >= {triton}" in REQUIREMENTS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{torch} or newer) with its torchvision and triton {triton} or newer" in readme


def test_what_is_pinned_is_tested() -> None:
    assert _pinned("triton") in _tested("TRITONS")  # the pinned torch: by `make test`, which `make matrix` includes
    assert re.search(r"^matrix:.*\n\t.* test ", MAKEFILE, re.MULTILINE)
