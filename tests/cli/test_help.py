"""What ``--help`` says is what was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from updp_rt.cli import app


def _options(command: Any, path: str) -> Iterator[tuple[str, str]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _options(child, f"{path} {name}")
    for option in command.params:
        yield f"{path} {option.name}", getattr(option, "help", None) or ""


def test_no_help_is_lost_as_markup() -> None:
    """Rich takes words in brackets for markup, and shows nothing of them."""
    found = dict(_options(get_command(app), "updp-rt"))
    assert len(found) > 50
    assert not [place for place, text in found.items() if re.search(r"\[[a-z/]", text)]
