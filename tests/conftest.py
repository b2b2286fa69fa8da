"""Shared by all tests. updp_rt comes first: it makes torchvision importable beside any torch build."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Its pool of compilers would import torch in each.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import updp_rt  # noqa: F401 - see above

import pytest  # isort: skip
import torch  # isort: skip
from torch import Tensor, nn  # isort: skip

from updp_rt import _timing  # isort: skip

_sample_side_by_side = _timing.sample_side_by_side


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.default_generator.manual_seed(0)  # the CPU's alone, which takes a thousandth of the time


@contextmanager
def measured_in_passing() -> Iterator[None]:
    """Whatever is timed side by side is called a few times: which is the fastest matters to no test here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_timing, "sample_side_by_side", _in_passing)
        yield


@pytest.fixture(autouse=True, scope="session")
def _measured_in_passing() -> Iterator[None]:
    with measured_in_passing():
        yield


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of timing itself."""
    monkeypatch.setattr(_timing, "sample_side_by_side", _sample_side_by_side)


@pytest.fixture
def own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Measurements go to the test's folder; what this process has checked and said is forgotten."""
    from updp_rt.runtime import dispatch
    from updp_rt.runtime.table import forget_tables

    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UPDP_RT_TABLE", raising=False)
    monkeypatch.setattr(dispatch, "_checked", set())
    monkeypatch.setattr(dispatch, "_warned", set())
    forget_tables()
    yield tmp_path / "cache"
    forget_tables()


@pytest.fixture
def rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A ROCm install as Python sees it: torch and triton-rocm of pytorch.org, and an MI100 that torch sees."""
    from tests.rocm import Rocm
    from updp_rt.kernels.architecture import architecture

    yield Rocm(tmp_path / "site-packages", monkeypatch)
    monkeypatch.undo()
    architecture.cache_clear()


def _in_passing(candidates: Any, **options: Any) -> Any:
    return _sample_side_by_side(candidates, **options | {"rounds": _timing.FEWEST_ROUNDS, "round_seconds": 0.0})


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """``max |found - wanted| / max |wanted|``; NaN where either holds one."""
    assert found.shape == wanted.shape
    if found.numel() == 0:
        return 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))


def border_and_interior(found: Tensor, wanted: Tensor, ring: int) -> tuple[float, float]:
    """Errors over the outermost `ring` pixels of ``[N, C, H, W]``, and over the rest, each against the whole's size."""
    scale = wanted.abs().max().clamp_min(1e-300)
    difference = (found - wanted).abs() / scale
    inner = torch.zeros(difference.shape[2:], dtype=torch.bool)
    inner[ring : difference.shape[2] - ring, ring : difference.shape[3] - ring] = True
    assert inner.any(), "the test image is too small to have an interior"
    return float(difference[:, :, ~inner].max()), float(difference[:, :, inner].max())


@torch.no_grad()
def random_batchnorm(channels: int, *, affine: bool = True, eps: float = 1e-5) -> nn.BatchNorm2d:
    """A float64 BatchNorm in eval mode whose statistics and affine part are far from their defaults."""
    norm = nn.BatchNorm2d(channels, eps=eps, affine=affine, dtype=torch.float64).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3.0)
    if affine:
        norm.weight.uniform_(-2.0, 2.0)
        norm.bias.normal_()
    return norm
