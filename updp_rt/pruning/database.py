"""A search's study in PostgreSQL, which workers on several machines share."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import Trial, TrialState
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, InternalError, OperationalError

from updp_rt.artifacts.atomic import is_alive
from updp_rt.pruning.study import Database, Directions, SharedStudy, ValueT

BEAT, GRACE = 10, 60  # seconds: a worker is heard of every so often, and given up when it was not for so long
PATIENCE = 300.0  # seconds that a lost connection is tried again for
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
_TABLES = "updp_rt tables"
# A connection that is lost, or a worker that hangs, must not keep the others out for ever.
_SESSION = {
    "lock_timeout": "120s",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


class StorageError(ValueError):
    """A database that cannot be reached: which one, why, and what to do."""


def check_address(address: str) -> None:
    """Connect once, before anything is trained.

    Raises:
        ValueError: not an address of PostgreSQL. StorageError: no driver is installed, or it cannot be reached.
    """
    engine = _engine(address)
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        raise StorageError(
            f"{_shown(engine.url)} cannot be reached: {_reason(error)}; mend the address (--storage) or start it"
        ) from error
    finally:
        engine.dispose()


@contextmanager
def open_database(database: Database, directions: Directions, say: Callable[[str], None]) -> Iterator[DatabaseStudy]:
    """The study in a database, which is made if it is not there; `say` is told when the connection is lost.

    Raises:
        ValueError: not an address of PostgreSQL. StorageError: no driver is installed; or the database was not there
            for `PATIENCE`, now or whenever the study is looked at.
    """
    shared = DatabaseStudy(database, say)
    try:
        shared.attempt(partial(shared.open, directions))
        yield shared
    finally:
        shared.close()


class DatabaseStudy(SharedStudy):
    """A study in PostgreSQL. Of each trial at work the database hears every `BEAT`; see `open_database`."""

    pause = 1.0

    def __init__(self, database: Database, say: Callable[[str], None]) -> None:
        self.database, self._say = database, say
        self.worker = f"{_here()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._locks = _engine(database.address)
        self._storage: RDBStorage | None = None
        self._trusted_from = -1.0  # when others' silence says something, by the monotonic clock

    def open(self, directions: Directions) -> None:
        with self._locked(_TABLES), self.alone():
            address = self._locks.url.render_as_string(hide_password=False)
            self._storage = RDBStorage(
                address.replace("{", "{{").replace("}", "}}"),  # Optuna formats it
                engine_kwargs=_options(),
                heartbeat_interval=BEAT,
                grace_period=GRACE,
            )
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=self.database.study,
                directions=list(directions),
                load_if_exists=True,
            )

    def close(self) -> None:
        self._locks.dispose()
        if self._storage is not None:
            self._storage.engine.dispose()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._locked(self.database.study), warnings.catch_warnings():
            # Optuna's heartbeats are experimental, and meant for its own loop.
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")
            yield

    def is_gone(self, worker: str) -> bool:
        here, process, _ = worker.rsplit(":", 2)
        number = int(process)  # of this one: a search that was given up before
        return here == _here() and (number == os.getpid() or not is_alive(number))

    def give_up_lost(self) -> None:
        super().give_up_lost()
        if time.monotonic() >= self._trusted_from:
            fail_stale_trials(self.study)

    def sign(self, trial: Trial) -> None:
        self._beat(trial)  # first: who dies between the two has not signed
        super().sign(trial)

    @contextmanager
    def at_work(self, trial: Trial) -> Iterator[None]:
        done = Event()

        def beat() -> None:
            while not done.wait(BEAT):
                try:
                    self._beat(trial)
                except Exception as error:  # the next may be heard; what is wrong is said when the trial is told
                    if _why_lost(error) is None:
                        raise

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            with suppress(Exception):  # or the others would wait for `GRACE`
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            raise
        finally:
            done.set()
            thread.join(BEAT)

    def attempt(self, action: Callable[[], ValueT]) -> ValueT:
        began, pause = None, FIRST_PAUSE
        while True:
            try:
                found = action()
            except Exception as error:
                why = _why_lost(error)
                if why is None:
                    raise
                now = time.monotonic()
                if began is None:
                    began = now
                    self._say(f"search: lost the database ({why}); trying again for {PATIENCE / 60:g} min")
                elif now - began > PATIENCE:
                    raise StorageError(
                        f"{_shown(self._locks.url)} was not there for {PATIENCE / 60:g} min ({why}); what it holds is "
                        "kept: the same command goes on once it is back"
                    ) from error
                time.sleep(min(pause, max(0.0, began + PATIENCE - now)))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if began is not None:
                    self._say("search: the database is there again")
                    self._trusted_from = time.monotonic() + GRACE  # nobody was heard meanwhile
                return found

    def _beat(self, trial: Trial) -> None:
        assert self._storage is not None
        self._storage.record_heartbeat(trial._trial_id)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the database's lock of this name, which it frees with the connection."""
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        with self._locks.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield


def _engine(address: str) -> Engine:
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is None or url.drivername.partition("+")[0] not in ("postgresql", "postgres"):
        raise ValueError(
            "a search is shared through PostgreSQL: --storage takes postgresql://USER@HOST/DATABASE, not "
            f"{_shown(url) if url else 'what was given'}"
        )
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), **_options())
    except ImportError as error:
        raise StorageError(f"PostgreSQL needs psycopg ({error}): pip install 'psycopg[binary]'") from error


def _options() -> dict[str, Any]:
    session = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    return {
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 10, "tcp_user_timeout": 30_000, "options": session},
    }


def _why_lost(error: Exception) -> str | None:
    """Why the connection was lost, in a line; None if `error` says something else."""
    if isinstance(error, UpdateFinishedTrialError):
        return "another worker took over while this one was held up"
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, OperationalError | InterfaceError | InternalError):
        return _reason(cause)
    return None


def _reason(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0].strip() if lines else type(error.orig).__name__


def _shown(url: URL) -> str:
    return url.set(drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=True)


def _here() -> str:
    """Where a process's number means something: this boot of this machine, and this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
