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
from tests.ops.calls import ACTIVATIONS, FULL, HIP_ALONE, WITHOUT_ACTIVATION

pytestmark = interpreted.runs

ROOT = Path(__file__).parents[2]


def interpret(cache: Path, *parts: str) -> dict[str, Any]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "UPDP_RT_CACHE": str(cache)}
    command = [sys.executable, "-m", "tests.backends.interpreted", *parts]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout)


@pytest.mark.slow
def test_every_form_agrees_with_the_plain_operator(tmp_path: Path) -> None:
    report = interpret(tmp_path, "supported", "forms")
    assert report["supported"] == {
        "torch.float32": [True, ""],
        "torch.float16": [True, ""],
        "torch.bfloat16": [False, "Triton's interpreter computes bfloat16 products wrongly"],
        "torch.float64": [False, "no kernel for torch.float64"],
    }
    assert report["forms"]["run"].keys() == FULL.keys() - set(HIP_ALONE)
    assert report["forms"]["wrong"] == []


@pytest.mark.slow
def test_every_activation_agrees_with_the_plain_operator(tmp_path: Path) -> None:
    report = interpret(tmp_path, "activations")["activations"]
    assert report["run"] == dict.fromkeys(FULL.keys() - {*WITHOUT_ACTIVATION, *HIP_ALONE}, len(ACTIVATIONS))
    assert report["wrong"] == []


@pytest.mark.slow
def test_weights_and_biases_may_lie_in_memory_in_any_way(tmp_path: Path) -> None:
    assert interpret(tmp_path, "weights anywhere") == {"weights anywhere": []}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return interpret(tmp_path_factory.mktemp("cache"), "models")["models"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["resnet", "mobilenetv2", "convnext", "vit"])
def test_a_model_on_triton_alone_agrees_with_its_source(family: str, models: dict[str, Any]) -> None:
    model = models[family]
    assert model["spread"] > 0.05  # of the source's own logits: a constant would agree too easily
    assert model["error"] < 1e-5
    assert model["demoted"] == {}
    assert model["not triton"] == []
    assert {"conv2d by triton", "linear by triton"} <= set(model["chosen"])
