"""timm can be imported first, beside a torchvision that was compiled for another torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from updp_rt import _torchvision
from updp_rt._torchvision import TorchvisionFinder, install, make_torchvision_importable


@pytest.fixture
def finders(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f).__name__ != "TorchvisionFinder"])
    return sys.meta_path  # type: ignore[return-value]


@pytest.mark.slow
def test_in_an_environment_that_was_set_up_timm_comes_first(tmp_path: Path) -> None:
    install(tmp_path)
    code = f"import site; site.addsitedir({str(tmp_path)!r}); import timm, updp_rt, torchvision.transforms, timm.data"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_starting_costs_next_to_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    code = f"import site, sys; before = set(sys.modules); site.addsitedir({str(tmp_path)!r}); "
    code += "print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert "_updp_rt_torchvision" in loaded
    assert not loaded & {"torch", "typing", "pathlib", "subprocess"}


def test_there_is_one_finder_and_it_goes_when_it_was_asked(
    finders: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_torchvision, "_define_missing_schemas", asked.append)
    before = len(finders)
    make_torchvision_importable()
    make_torchvision_importable()
    assert len(finders) == before + 1
    finder = finders[0]
    assert isinstance(finder, TorchvisionFinder)
    assert finder.find_spec("torch") is None
    assert not asked
    assert finder.find_spec("torchvision") is None
    assert [Path(origin).name for origin in asked] == ["__init__.py"]
    assert finder not in finders


@pytest.mark.parametrize(
    ("statuses", "written", "fails"), [([0], False, False), ([1, 0], True, False), ([1, 1], True, True)]
)
def test_setting_up_writes_only_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: list[int], written: bool, fails: bool
) -> None:
    answers = iter(statuses)

    def answer(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess((), next(answers))

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"purelib": str(tmp_path)})
    if fails:
        with pytest.raises(SystemExit, match="torchvision does not import: install the one that belongs to your torch"):
            _torchvision.main()
    else:
        _torchvision.main()
    assert bool(list(tmp_path.glob("*.pth"))) == written
