"""A study as a list of jobs: split, stopped, resumed, joined; baselines trained once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import results
from benchmarks.commands import app
from benchmarks.protocol import Case, Measured, Record, Suite, run
from benchmarks.results import read
from benchmarks.settings import Settings
from benchmarks.studies.images import Images
from tests.data.making import make_scans
from updp_rt.blocks import make_progressive
from updp_rt.blocks.randomize import randomize
from updp_rt.pruning import baseline
from updp_rt.pruning.progressive import progressive_losses
from updp_rt.pruning.trainer import Recipe

QUIET = Console(quiet=True)


def suite_of(jobs: dict[str, list[str]], measure: Callable[[str, Record], Measured], part: str = "") -> Suite:
    """A study whose cases come in groups."""

    def cases(settings: Settings) -> Iterator[Case]:
        for group, keys in jobs.items():
            for key in keys:
                yield Case(key, {"group": group}, ("ours",), lambda record, key=key: measure(key, record), group=group)

    return Suite("jobs", "Jobs.", cases, lambda rows: [], options=("shard", "work"), place="here")


JOBS = {"a": ["a 1", "a 2"], "b": ["b 1"], "c": ["c 1", "c 2"]}


def settings_of(folder: Path, **settings: object) -> Settings:
    return Settings(device="cpu", out=folder, work=folder / "work", **settings)  # type: ignore[arg-type]


def test_parts_add_up_to_one_result_and_groups_stay_together(tmp_path: Path) -> None:
    done: list[str] = []

    def measure(key: str, record: Record) -> Measured:
        done.append(key)
        return Measured(values={"ours": {"accuracy": len(key) / 7}})

    suite = suite_of(JOBS, measure)
    second = settings_of(tmp_path, shard=(2, 2), command="jobs")
    # While one part is at work, the other finishes.
    first = Record(suite, settings_of(tmp_path, shard=(1, 2), command="jobs"), lambda line: None)
    every = list(suite.cases(first.settings))
    first.rows_of(every[0])
    run(suite, second, QUIET)
    assert done == ["a 1", "b 1"]
    for case in (every[1], every[3], every[4]):
        first.rows_of(case)
    found = read(first.path)
    assert sorted(row["case"] for row in found.rows) == ["a 1", "a 2", "b 1", "c 1", "c 2"]
    assert found.about["command"] == "jobs"
    run(suite, second, QUIET)
    run(suite, settings_of(tmp_path, shard=(1, 2), command="jobs"), QUIET)
    assert len(done) == 5, "nothing is measured twice"
    assert len(read(first.path).rows) == 5


def test_each_part_has_its_groups_alone(tmp_path: Path) -> None:
    parts = []
    for part in (1, 2, 3):
        done: list[str] = []

        def measure(key: str, record: Record, done: list[str] = done) -> Measured:
            done.append(key)
            return Measured(values={"ours": {"accuracy": 0.5}})

        run(suite_of(JOBS, measure), settings_of(tmp_path, shard=(part, 3)), QUIET)
        parts.append(done)
    assert parts == [["a 1", "a 2"], ["b 1"], ["c 1", "c 2"]]


def test_what_a_stopped_job_has_done_is_kept_until_its_rows_are(tmp_path: Path) -> None:
    stop = True

    def measure(key: str, record: Record) -> Measured:
        kept = record.scratch / "epochs"
        seen = kept.read_text() if kept.exists() else ""
        record.scratch.mkdir(parents=True, exist_ok=True)
        kept.write_text(seen + "x")
        if stop:
            raise KeyboardInterrupt
        return Measured(values={"ours": {"accuracy": len(seen) / 10}})

    suite = suite_of({"a": ["a: 1"]}, measure)
    with pytest.raises(KeyboardInterrupt):
        run(suite, settings_of(tmp_path), QUIET)
    assert [path.name for path in (tmp_path / "work" / "jobs").iterdir()] == ["a_1"]
    stop = False
    record = run(suite, settings_of(tmp_path), QUIET)
    assert record.rows[0]["accuracy"] == 0.1
    assert not list((tmp_path / "work" / "jobs").iterdir())


def test_results_of_other_machines_are_joined(tmp_path: Path) -> None:
    about = {"suite": "jobs", "versions": {"torch": "2"}, "command": "jobs", "commit": "a", "device": "one"}
    paths = [tmp_path / f"{name}.csv" for name in ("here", "there", "odd")]
    results.write(paths[0], about, [{"case": "a", "candidate": "x", "accuracy": 0.5}])
    more = [{"case": key, "candidate": "x", "accuracy": 0.5} for key in ("a", "b")]
    more[0]["device"] = "one"  # as the other was joined with this
    results.write(paths[1], {**about, "commit": "b", "device": "two"}, more)
    found = CliRunner().invoke(app, ["join", str(paths[0]), str(paths[1])])
    assert found.exit_code == 0, found.output
    assert "1 cases added" in found.output
    assert results.join(paths[0], paths[1:2]) == 0
    whole = read(paths[0])
    assert [(row["case"], row.get("device")) for row in whole.rows] == [("a", None), ("b", "two")]
    assert (whole.about["commit"], whole.about["command"]) == ("a, b", "jobs")
    for change, said in (({"versions": {"torch": "3"}}, "its versions is"), ({"suite": "other"}, "its suite is")):
        results.write(paths[2], {**about, **change}, more)
        with pytest.raises(ValueError, match=said):
            results.join(paths[0], paths[2:])
    results.write(paths[2], about, [{"case": "b", "candidate": "x", "accuracy": 0.25}])
    with pytest.raises(ValueError, match="its rows of 'b' are not those of"):
        results.join(paths[0], paths[2:])


def test_a_wrong_part() -> None:
    for part in ("0/2", "3/2", "half", "1", "1/"):
        found = CliRunner().invoke(app, ["progressive_vs_direct", "--shard", part], env={"COLUMNS": "200"})
        assert found.exit_code == 2
        assert "a part such as 1/4 is wanted" in found.output


def test_a_baseline_is_trained_once_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scans(tmp_path / "scans", 80, 8, classes=2)
    calls: list[int] = []
    fit = baseline.fit
    monkeypatch.setattr(baseline, "fit", lambda *args, **how: calls.append(1) or fit(*args, **how))
    data = f"idx/{tmp_path / 'scans'}"
    first = Images(0, data).baseline("test_vit", 1, 1e-3, tmp_path)
    again = Images(0, data).baseline("test_vit", 1, 1e-3, tmp_path)
    other = Images(1, data).baseline("test_vit", 1, 1e-3, tmp_path)
    assert len(calls) == 2
    weights = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][key]) for key, value in weights[0].items())
    manifests = list((tmp_path / "baselines").glob("*/manifest.json"))
    assert {json.loads(path.read_text())["architecture"] for path in manifests} == {"test_vit"}


@pytest.mark.slow
def test_a_training_that_had_ended_when_it_was_stopped_is_judged_the_same(tmp_path: Path) -> None:
    """Nothing is left to train then, so nothing but the end of it makes λ 1."""
    images = Images(0)
    images.splits = images.splits.first(64, 32)
    images.judge_by(images.splits.val)

    def trained() -> float:
        torch.manual_seed(0)
        subnet = make_progressive(randomize(timm.create_model("test_resnet", num_classes=10)))
        losses, recipe = progressive_losses(1), Recipe(1, 1e-3)
        images.train(subnet, losses, recipe, "subnet", tmp_path / "it.ckpt")
        with torch.no_grad():
            return float(subnet.eval()(torch.ones(1, 3, 32, 32)).sum())

    whole = trained()
    assert (tmp_path / "it.ckpt").exists()
    assert trained() == whole
