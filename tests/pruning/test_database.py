"""Searches that several machines share through PostgreSQL: each candidate once, whoever dies, and whatever is lost."""

from __future__ import annotations

import importlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgresql import Server, serve
from tests.processes import finish, start
from tests.pruning.test_pipeline import table
from tests.pruning.test_search import accuracy
from tests.pruning.test_sharing import (
    TRIALS,
    Noted,
    assert_each_once,
    interrupted,
    run_in,
    search,
    steady,
    stuck,
    together,
    wait,
)
from updp_rt.pruning import SearchResult, database, stages
from updp_rt.pruning.database import StorageError, check_address
from updp_rt.pruning.pipeline import run_stages
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.run import read_result
from updp_rt.pruning.study import Database

service = pytest.mark.service


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as found:
        yield found


@pytest.fixture
def study(server: Server, tmp_path: Path) -> Database:
    return Database(server.address, tmp_path.name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are heard of every second, and connections that are tried again soon."""
    for name, seconds in (("BEAT", 1), ("GRACE", 3), ("FIRST_PAUSE", 0.1), ("LONGEST_PAUSE", 0.5)):
        monkeypatch.setattr(database, name, seconds)


def elsewhere(machine: str, work: str, study: Database, notes: Path) -> None:
    """A worker on another machine, as far as the others can tell; heard of every second."""
    database._here = lambda: machine
    database.BEAT, database.GRACE = 1, 3
    {"together": together, "steady": steady, "stuck": stuck}[work](study, notes)


@service
def test_one_worker_finds_what_it_finds_by_a_file(study: Database, tmp_path: Path) -> None:
    assert search(study) == search(tmp_path / "study.journal")
    interrupted(other := Database(study.address, f"{study.study} again"), accuracy)
    assert search(other) == search(study)


@service
def test_workers_on_two_machines_evaluate_each_candidate_once(study: Database, tmp_path: Path) -> None:
    """They make the tables, too, both at once."""
    for worker in [start(elsewhere, machine, "together", study, tmp_path / "notes") for machine in "ab"]:
        finish(worker)
    assert_each_once(study, tmp_path / "notes")


@service
def test_a_killed_machine_s_trial_is_taken_over(study: Database, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    worker = start(elsewhere, "a", "stuck", study, notes)
    wait(lambda: len(Noted(notes).read()) == 3)
    other = start(elsewhere, "b", "steady", study, notes)
    wait(lambda: len(Noted(notes).read()) == TRIALS)
    time.sleep(6)  # twice as long as a silent one has
    assert other.is_alive(), "it is to wait for the one that is at work"
    assert len(Noted(notes).read()) == TRIALS
    worker.kill()
    worker.join()
    finish(other, 60)
    candidates, _ = search(study, lambda blocks: pytest.fail("there was nothing left to evaluate"))
    assert len({candidate.blocks for candidate in candidates}) == len(candidates) == TRIALS
    assert len(Noted(notes).read()) == TRIALS + 1


@service
def test_all_machines_killed_and_one_to_go_on(study: Database, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    workers = [start(elsewhere, machine, "stuck", study, notes) for machine in "ab"]
    wait(lambda: len(Noted(notes).read()) == 6)
    for worker in workers:
        worker.kill()
        worker.join()
    finish(start(elsewhere, "c", "steady", study, notes), 60)
    assert len(Noted(notes).read()) == TRIALS + 2


@service
@pytest.mark.usefixtures("quick")
def test_a_database_that_is_gone_for_a_while_costs_nothing(server: Server, study: Database, tmp_path: Path) -> None:
    """It dies while a candidate is evaluated, and is started again when the worker has missed it."""
    noted, progress = Noted(tmp_path / "notes"), Progress(tmp_path / "log.txt", show=False)

    def restart() -> None:
        wait(lambda: "lost the database" in (tmp_path / "log.txt").read_text())
        server.start()

    def evaluate(blocks: tuple[str, ...]) -> float:
        found = noted(blocks)
        if noted.count == 5:
            server.stop()
            threading.Thread(target=restart).start()
        return found

    assert search(study, evaluate, progress=progress) == search(tmp_path / "study.journal")
    assert noted.count == TRIALS
    assert "search: the database is there again" in (tmp_path / "log.txt").read_text()


@service
@pytest.mark.usefixtures("quick")
def test_a_database_that_stays_away_is_one_clear_error_and_the_search_goes_on_once_it_is_back(
    server: Server, study: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 1.5)
    noted = Noted(tmp_path / "notes")

    def evaluate(blocks: tuple[str, ...]) -> float:
        found = noted(blocks)
        if noted.count == 5:
            server.stop()
        return found

    try:
        with pytest.raises(StorageError, match=r"/postgres was not there for 0.025 min \(.*the same command goes on"):
            search(study, evaluate)
    finally:
        server.start()
    assert search(study, noted) == search(tmp_path / "study.journal")
    assert noted.count == TRIALS + 1, "the one that could not be stored is evaluated again"


@service
def test_runs_on_two_machines_share_the_search(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has a copy of the first one's folder; settings of later stages may differ."""
    monkeypatch.setattr(stages, "measure_latency", table)
    one, two = tmp_path / "one", tmp_path / "two"
    run_stages(run_in(one), ["supernet"])
    shutil.copytree(one, two)
    run_stages(run_in(one, storage=server.address), ["search"])
    assert not (one / "search.journal").exists()
    run_stages(run_in(two, storage=server.address, epochs=7), ["search"])
    assert "blocks, accuracy" not in (two / "log.txt").read_text(), "all was found"
    assert read_result(one / "search.json", SearchResult) == read_result(two / "search.json", SearchResult)
    other = run_in(tmp_path / "two", storage=server.address, trials=7)
    assert run_in(one, storage=server.address).study == run_in(two, storage=server.address).study != other.study


@service
def test_an_address_that_leads_nowhere_is_refused_before_anything_is_trained(server: Server, tmp_path: Path) -> None:
    nowhere = server.address.replace(f":{server.port}", ":1").replace("updp@", "updp:secret@")
    with pytest.raises(StorageError, match=r"postgresql://updp:\*\*\*@127.0.0.1:1/postgres cannot be reached: "):
        run_in(tmp_path / "run", storage=nowhere)
    with pytest.raises(StorageError, match=r"cannot be reached: .*no_such"):
        check_address(server.address.replace("/postgres", "/no_such"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("address", ["mysql://me@host/db", "search.journal", "postgresql", "sqlite:///x.db"])
def test_other_storages_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--storage takes postgresql://USER@HOST/DATABASE, not "):
        run_in(tmp_path / "run", storage=address)
    with pytest.raises(ValueError, match="not mysql://me:\\*\\*\\*@host/db"):
        check_address("mysql://me:secret@host/db")


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"PostgreSQL needs psycopg .*: pip install 'psycopg\[binary\]'"):
        check_address("postgresql://me@host/db")


def test_methods_without_a_search_have_nothing_to_share(tmp_path: Path) -> None:
    importlib.import_module("updp_rt.methods")
    with pytest.raises(ValueError, match="the method drop chooses blocks without a search that is shared"):
        run_in(tmp_path / "run", storage="postgresql://me@host/db", method="drop")
