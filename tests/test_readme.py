"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import updp_rt

README = Path(updp_rt.__file__).parents[1] / "README.md"


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))
def test_python_snippets_run(snippet: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, check=True, capture_output=True, timeout=300)


def test_commands_exist_with_the_options_shown() -> None:
    from typer.testing import CliRunner

    from updp_rt.cli import app

    lines = re.findall(r"^updp-rt (kernels \w+|\w+)([^#\n]*)", README.read_text(encoding="utf-8"), re.MULTILINE)
    known = {"inspect", "prune", "verify", "merge", "info", "explain", "emulate", "project", "profile", "report"}
    known |= {"kernels build"}
    assert {command for command, _ in lines} >= known
    for command, rest in lines:
        shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in shown, (command, option)
