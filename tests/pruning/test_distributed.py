"""Two processes under torchrun: the same stages, the data shared out, one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import save_file

import updp_rt
from tests.pruning.conftest import small_model


def test_prune_under_torchrun(tmp_path: Path) -> None:
    save_file(small_model().state_dict(), tmp_path / "start.safetensors")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "updp_rt.cli", "prune", "test_vit", "--checkpoint", str(tmp_path / "start.safetensors")]
    command += ["--img-size", "32", "--num-pruned", "2", "--epochs", "2", "--trials", "4", "--batch-size", "64"]
    command += ["--set", "supernet_epochs=1", "--out", str(tmp_path / "run"), "--json"]
    root = str(Path(updp_rt.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout[done.stdout.index("{") :])
    assert summary["predictions_that_differ"] == 0
    history = (tmp_path / "run" / "history.csv").read_text().splitlines()
    steps = [int(line.split(",")[1]) for line in history[1:]]
    assert steps == [8, 16]  # 16 batches an epoch, shared by two processes
    search = json.loads((tmp_path / "run" / "search.json").read_text())
    assert len(search["candidates"]) == 4
    updp_rt.load(tmp_path / "run" / "merged")
