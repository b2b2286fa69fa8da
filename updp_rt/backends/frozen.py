"""The problems that the four models meet, frozen: what is measured, projected and compiled ahead.

They are at 224, unpruned, with half of their blocks merged, and with all. ``frozen.json`` has them at batch 1, one a
line, with how often each model's variant meets it. ``python -m benchmarks freeze`` writes it from the models.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from updp_rt.ops import OPERATORS, Problem

PATH: Final = Path(__file__).with_suffix(".json")

Met = dict[str, dict[str, int]]  # by model and variant: how often


@cache
def frozen() -> tuple[tuple[Problem, Met], ...]:
    """Each problem at batch 1 in float32 on the CPU, and who meets it."""
    return tuple((_problem(record), record["met"]) for record in json.loads(PATH.read_text(encoding="utf-8")))


def _problem(record: dict[str, Any]) -> Problem:
    values = record["shapes"] | record["attributes"]
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Problem.make(OPERATORS[record["operator"]], torch.float32, **values)
