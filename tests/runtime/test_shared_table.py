"""Tables made elsewhere: written by ``updp-rt tune``, named in the environment, read where they fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import updp_rt
from tests.pruning.conftest import small_model
from tests.runtime.conftest import Stub
from tests.runtime.test_dispatch import rows
from updp_rt.cli import app
from updp_rt.runtime import dispatch
from updp_rt.runtime.table import Entry, Table, forget_tables

HERE = {"device": "a", "torch": "2"}


def written(path: Path, environment: dict[str, str] = HERE, **entries: Entry) -> Path:
    table = Table(environment, path.with_name("own.json"))
    for key, entry in entries.items():
        table.keep(key, entry)
    table.export(path, entries)
    return path


def test_a_shared_table_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    shared = written(tmp_path / "shared.json", p=Entry({"x": 1.0, "y": 2.0}), q=Entry({"x": 1.0}))
    before, own = shared.read_text(), tmp_path / "cache.json"
    first = Table(HERE, own)
    first.keep("p", Entry({"x": 3.0}))
    first.keep("q", Entry({"x": 3.0}))
    first.save()
    both = Table(HERE, own, shared)
    assert both.entries["p"].times_ms == {"x": 1.0, "y": 2.0}, "more was measured there"
    assert both.entries["q"].times_ms == {"x": 3.0}, "as much was measured here"
    both.keep("r", Entry({"x": 4.0}))
    both.save()
    assert shared.read_text() == before
    assert Table(HERE, own).entries.keys() == {"p", "q", "r"}
    assert Table(HERE, own).entries["p"].times_ms == {"x": 3.0}, "what is shared is not taken over"


def test_a_shared_table_that_does_not_fit_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = written(tmp_path / "shared.json", {"device": "b", "torch": "2"}, p=Entry({"x": 1.0}))
    assert Table(HERE, tmp_path / "cache.json", shared).entries == {}
    assert (
        "is of another environment (device b instead of a) and is not used: updp-rt tune makes another" in caplog.text
    )
    assert Table(HERE, tmp_path / "cache.json", tmp_path / "none.json").entries == {}
    assert "$UPDP_RT_TABLE names" in caplog.text


def test_a_table_is_added_to_and_nothing_else_is_written_over(tmp_path: Path) -> None:
    path = written(tmp_path / "shared.json", p=Entry({"x": 1.0}))
    written(path, q=Entry({"x": 2.0}))
    assert Table(HERE, path).entries.keys() == {"p", "q"}
    with pytest.raises(ValueError, match="no tuned table of this device and versions; write to another file"):
        written(path, {"device": "b"}, p=Entry())


def test_tune_measures_all_and_its_table_is_read(
    candidates: Callable[..., dict[str, Stub]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ranking", lambda *_: ["one", "two", "three", "four"])
    names = ("one", "two", "three", "four", "reference")
    candidates(**{name: (lambda y: y, 1e-3 * (9 - i)) for i, name in enumerate(names)})
    updp_rt.save(small_model().eval(), tmp_path / "model")
    path = tmp_path / "tuned.json"
    command = ["tune", str(tmp_path / "model"), "--batch", "1,2", "--device", "cpu", "--out", str(path), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told, kept = json.loads(result.stdout), json.loads(path.read_text())
    assert told["times_ms"].keys() == kept["entries"].keys()
    assert all(entry["times_ms"].keys() == set(names) for entry in kept["entries"].values())
    assert told["environment"] == kept["environment"]

    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("UPDP_RT_TABLE", str(path))
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda *_, **__: pytest.fail("it measured"))
    forget_tables()
    model = updp_rt.load(tmp_path / "model")
    found = rows(updp_rt.accelerate(model, torch.randn(1, 3, 32, 32)))
    assert {row.kernel for row in found} == {"reference"}
    assert {row.why for row in found} == {"the fastest measured"}


def test_tune_says_in_one_line_what_is_wrong() -> None:
    result = CliRunner().invoke(app, ["tune", "resnet18", "--batch", "1,x"])
    assert result.exit_code == 2
    assert result.stderr == ("updp-rt: --batch takes numbers of images with commas between, such as 1,128, not '1,x'\n")
