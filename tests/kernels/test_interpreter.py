"""Every operator, interpreted, against float64: all activations, odd shapes and strides, outputs poisoned with NaN."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import interpreted

pytestmark = interpreted.runs


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpreted"]
    root = Path(__file__).parents[2]
    process = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", interpreted.names())
def test_agrees_with_float64(case: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[case] is None
