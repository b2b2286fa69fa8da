"""The Triton backend, interpreted: each kernel as dispatch prepares it, and whole models that run on nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels import interpreted
from tests.ops.calls import FULL, WITHOUT_ACTIVATION

pytestmark = interpreted.runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = str(tmp_path_factory.mktemp("cache"))
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "UPDP_RT_CACHE": cache}
    command = [sys.executable, "-m", "tests.backends.interpreted"]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout)


@pytest.mark.slow
def test_what_the_interpreter_runs(report: dict[str, Any]) -> None:
    assert report["supported"] == {
        "torch.float32": [True, ""],
        "torch.float16": [True, ""],
        "torch.bfloat16": [False, "Triton's interpreter computes bfloat16 products wrongly"],
        "torch.float64": [False, "no kernel for torch.float64"],
    }


def test_every_kernel_agrees_with_the_plain_operator(report: dict[str, Any]) -> None:
    run = report["operators"]["run"]
    assert run.pop("attention") > 0  # of the depths that it has kernels for
    assert set(run) == FULL.keys() - {"attention"}
    assert all(count > (1 if operator in WITHOUT_ACTIVATION else 5) for operator, count in run.items()), run
    assert report["operators"]["wrong"] == []


def test_weights_and_biases_may_lie_in_memory_in_any_way(report: dict[str, Any]) -> None:
    assert report["weights anywhere"] == []


@pytest.mark.parametrize("family", ["resnet", "mobilenetv2", "convnext", "vit"])
def test_a_model_on_triton_alone_agrees_with_its_source(family: str, report: dict[str, Any]) -> None:
    model = report["models"][family]
    assert model["spread"] > 0.05  # of the source's own logits: a constant would agree too easily
    assert model["error"] < 1e-5
    assert model["demoted"] == {}
    assert model["not triton"] == []
    assert {"conv2d by triton", "linear by triton"} <= set(model["chosen"])
