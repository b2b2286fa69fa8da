"""A search's study, which several workers may share: in a journal file on one machine, or in a database."""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from updp_rt.artifacts.atomic import WriteError

STUDY = "updp"
SIGNATURE = "worker"  # a trial's attribute: who evaluates it
_CHUNK = 4096

Directions = Sequence[Literal["minimize", "maximize"]]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Database:
    """A study's place in PostgreSQL: the address, ``postgresql://USER@HOST/DATABASE``, and the study's name there."""

    address: str
    study: str


class SharedStudy(ABC):
    """An Optuna study whose trials several workers evaluate, each trial one of them.

    Attributes:
        study: what is known of it here.
        worker: what this worker signs its trials with.
        pause: seconds to wait before looking again what the others have done.
    """

    study: optuna.Study
    worker: str
    pause: float

    @abstractmethod
    def alone(self) -> AbstractContextManager[object]:
        """Keep all other workers from asking for trials."""

    @abstractmethod
    def is_gone(self, worker: str) -> bool:
        """Whether the worker of this signature is known to run no longer."""

    def sign(self, trial: Trial) -> None:
        """Take a trial: from now on it is given up only when this worker is gone."""
        trial.set_user_attr(SIGNATURE, self.worker)

    @contextmanager
    def at_work(self, trial: Trial) -> Iterator[None]:
        """While `trial` is evaluated."""
        yield

    def attempt(self, action: Callable[[], ValueT]) -> ValueT:
        """What `action` gives, which reads or changes the study, and may be done twice."""
        return action()

    def running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def give_up_lost(self) -> None:
        """Give up the trials that nobody evaluates any more, so that they neither count nor shift the seeds.

        To be called `alone`, between two trials of this worker: what it has signed was asked for in vain, and what
        nobody has signed, by one that died while it was alone.
        """
        for trial in self.running():
            worker = str(trial.user_attrs.get(SIGNATURE, ""))
            if worker in ("", self.worker) or self.is_gone(worker):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


class JournalStudy(SharedStudy):
    """A study in a file. Each worker holds a lock of its own, which the kernel frees where it dies."""

    pause = 0.1

    def __init__(self, path: Path, lock: FileLock, worker: str, directions: Directions) -> None:
        self.path, self.lock, self.worker = path, lock, worker
        self.study = optuna.create_study(
            storage=JournalStorage(_WholeLines(path, lock)),
            study_name=STUDY,
            directions=list(directions),
            load_if_exists=True,
        )

    def alone(self) -> AbstractContextManager[object]:
        return self.lock

    def is_gone(self, worker: str) -> bool:
        return _is_free(_lock_of(self.path, worker))


@contextmanager
def open_journal(path: Path, directions: Directions) -> Iterator[JournalStudy]:
    """The study in the file `path`, which is made if it is not there.

    Raises:
        WriteError: what is found cannot be written, as on a full disk; now or whenever the study changes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))  # Optuna's own, of one that died, would hold all up for half a minute
    worker = f"{os.getpid()}-{secrets.token_hex(4)}"
    ours = _lock_of(path, worker)
    try:
        with FileLock(ours):
            with lock:
                for other in path.parent.glob(_lock_of(path, "*").name):
                    if other != ours:
                        _is_free(other)
            yield JournalStudy(path, lock, worker, directions)
    finally:
        ours.unlink(missing_ok=True)


def _lock_of(path: Path, worker: str) -> Path:
    return path.with_name(f"{path.stem}.{worker}.worker")


def _is_free(lock: Path) -> bool:
    """Whether nobody holds a worker's lock; it is removed then."""
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


class _WholeLines(JournalFileBackend):
    """A journal without half a line, which would spoil it, of one that was killed or met a full disk while writing."""

    def __init__(self, path: Path, lock: Any) -> None:
        super().__init__(str(path), lock_obj=lock)
        self._path, self._held = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._held:
            _cut_half_line(self._path)
            try:
                super().append_logs(logs)
            except OSError as error:
                with suppress(OSError):
                    _cut_half_line(self._path)
                raise WriteError(
                    f"{self._path} cannot be written: {error.strerror}. What was evaluated before is kept in it"
                ) from error


def _cut_half_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _CHUNK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
