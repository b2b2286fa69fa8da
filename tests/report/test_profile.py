"""What `profile` measures and keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from updp_rt import AccelerationError
from updp_rt.report import profile
from updp_rt.report.schema import Profile
from updp_rt.runtime.engines import ENGINES, RUNTIMES


def test_a_run_is_profiled_at_its_own_batch_size_and_on_its_merged_model(whole: Path) -> None:
    found = Profile.model_validate_json((whole / "profile.json").read_bytes())
    summary = json.loads((whole / "summary.json").read_text())
    assert found.input == (summary["batch_size"], 3, 32, 32)
    assert found.weights == json.loads((whole / "merged" / "manifest.json").read_text())["sha256"]
    assert list(found.blocks) == [f"blocks.{i}" for i in range(len(found.blocks))]
    assert set(summary["blocks"]) < set(found.blocks)
    assert {kernel.module for kernel in found.kernels} >= set(found.blocks)
    assert all(kernel.flops > 0 and kernel.bytes > 0 for kernel in found.kernels)
    timed = [kernel for kernel in found.kernels if kernel.ms is not None]
    assert found.model.other is not None
    assert found.model.other.engine in RUNTIMES
    assert timed
    for kernel in timed:
        assert kernel.ms is not None
        least = max(kernel.flops / found.roof.flops, kernel.bytes / found.roof.bandwidth)
        assert kernel.roofline == pytest.approx(least * 1e3 / kernel.ms)


def test_a_saved_model_can_be_profiled(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole / "merged", tmp_path / "model"))
    found = profile(folder, batch_size=2, engine="modules")
    assert found.input[0] == 2
    assert found.model.other is None
    assert (folder / "profile.json").is_file()


def test_what_cannot_be_profiled(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither the folder of a pruning run"):
        profile(tmp_path)
    (tmp_path / "run.json").write_text((whole / "run.json").read_text())
    with pytest.raises(ValueError, match=r"manifest.json: cannot be read"):
        profile(tmp_path)


def test_an_engine_that_cannot_run_is_named(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINES["openvino"], "supports", lambda *_: (False, "not installed"))
    folder = Path(shutil.copytree(whole / "merged", tmp_path / "model"))
    with pytest.raises(AccelerationError, match="'openvino' cannot run this model here: not installed"):
        profile(folder, batch_size=1, engine="openvino")
