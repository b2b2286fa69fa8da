"""Stage 2: which blocks to prune, by a genetic search over the supernet's subnets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.samplers import NSGAIISampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict

from updp_rt.artifacts.atomic import is_alive
from updp_rt.pruning.progress import Progress

STUDY = "updp"


class Candidate(BaseModel):
    """One evaluated subnet: its pruned blocks, its accuracy in the supernet, its latency by the table."""

    model_config = ConfigDict(extra="forbid")

    blocks: tuple[str, ...]
    accuracy: float
    latency_ms: float


class SearchResult(BaseModel):
    """Every candidate in order of evaluation, and the one chosen with the pruned body of each block."""

    model_config = ConfigDict(extra="forbid")

    candidates: list[Candidate]
    chosen: Candidate
    bodies: dict[str, str]

    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both accuracy and latency, fastest first."""
        best: list[Candidate] = []
        for candidate in sorted(self.candidates, key=lambda c: (c.latency_ms, -c.accuracy)):
            if not best or candidate.accuracy > best[-1].accuracy:
                best.append(candidate)
        return best


def search_blocks(
    names: Sequence[str],
    evaluate: Callable[[tuple[str, ...]], float],
    latency_ms: Callable[[tuple[str, ...]], float],
    *,
    storage: Path,
    trials: int,
    seed: int = 0,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
    progress: Progress | None = None,
) -> tuple[list[Candidate], Candidate]:
    """Search the subsets of `names` to prune; returns all candidates and the chosen one.

    With `num_pruned`, a genome is one random key a block and the largest keys are pruned, so every genome is
    feasible; the most accurate candidate is chosen. Otherwise a genome is one bit a block, NSGA-II follows the
    accuracy-latency front, and the most accurate candidate within `max_latency_ms` is chosen.

    The study lives in `storage`; a run that was killed goes on to the same result, and several processes may run
    this at once on one file to share the work.

    Args:
        evaluate: accuracy of a subnet on images that are neither trained nor tested on.
        latency_ms: of a subnet, from the table.
        trials: candidates in all, whoever evaluates them.

    Raises:
        ValueError: more blocks to prune than there are, or no candidate is fast enough.
    """
    check_num_pruned(names, num_pruned)
    progress = progress or Progress(show=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    # The kernel frees it when its holder dies; Optuna's own would keep a resumed run waiting for half a minute.
    lock: Any = FileLock(storage.with_suffix(".lock"))
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(storage), lock_obj=lock)),
        study_name=STUDY,
        directions=["maximize"] if num_pruned is not None else ["maximize", "minimize"],
        load_if_exists=True,
    )
    known = {candidate.blocks: candidate.accuracy for candidate in _candidates(study)}
    with progress.task("search", trials, len(known)) as advance:
        while True:
            trial = _next_trial(study, lock, trials, seed)
            if trial is None and not _running(study):
                break
            if trial is None:  # another process is at the last ones
                time.sleep(0.1)
                continue
            blocks = _decode(trial, names, num_pruned)
            accuracy = known[blocks] if blocks in known else evaluate(blocks)
            known[blocks] = accuracy
            latency = latency_ms(blocks)
            trial.set_user_attr("blocks", list(blocks))
            trial.set_user_attr("accuracy", accuracy)
            trial.set_user_attr("latency_ms", latency)
            study.tell(trial, [accuracy] if num_pruned is not None else [accuracy, latency])
            progress.log(f"search: {len(blocks)} blocks, accuracy {accuracy:.4g}, {latency:.3g} ms")
            advance(f"best {max(known.values()):.3f}")
    candidates = _candidates(study)
    return candidates, _choose(candidates, max_latency_ms)


def check_num_pruned(names: Sequence[str], num_pruned: int | None) -> None:
    """Raise `ValueError` where there are not so many blocks to prune."""
    if num_pruned is not None and not 1 <= num_pruned <= len(names):
        raise ValueError(f"num_pruned is {num_pruned}, but this model has {len(names)} prunable blocks")


def _choose(candidates: list[Candidate], max_latency_ms: float | None) -> Candidate:
    fast = [c for c in candidates if max_latency_ms is None or c.latency_ms <= max_latency_ms]
    if not fast:
        fastest = min(c.latency_ms for c in candidates)
        raise ValueError(
            f"no candidate is within {max_latency_ms:.3g} ms; the fastest of {len(candidates)} takes {fastest:.3g} ms: "
            "allow more latency or more trials"
        )
    return max(fast, key=lambda c: c.accuracy)


def _decode(trial: Trial, names: Sequence[str], num_pruned: int | None) -> tuple[str, ...]:
    if num_pruned is None:
        return tuple(name for name in names if trial.suggest_categorical(name, [False, True]))
    keys = {name: trial.suggest_float(name, 0.0, 1.0) for name in names}
    largest = set(sorted(names, key=lambda name: -keys[name])[:num_pruned])
    return tuple(name for name in names if name in largest)


def _next_trial(study: optuna.Study, lock: FileLock, trials: int, seed: int) -> Trial | None:
    """A trial of this process, or None where all are taken; one process at a time may ask."""
    with lock:
        _drop_dead_trials(study)
        count = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)))
        if count >= trials:
            return None
        # A sampler of its own for each trial: what it draws depends on the seed and on how many went before.
        study.sampler = NSGAIISampler(seed=seed * 100_003 + count, population_size=max(4, min(20, trials // 4)))
        trial = study.ask()
        trial.set_user_attr("worker", _worker())
        return trial


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _candidates(study: optuna.Study) -> list[Candidate]:
    return [
        Candidate(
            blocks=tuple(trial.user_attrs["blocks"]),
            accuracy=trial.user_attrs["accuracy"],
            latency_ms=trial.user_attrs["latency_ms"],
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _drop_dead_trials(study: optuna.Study) -> None:
    """Give up the trials of processes that are gone, so that they neither count nor shift the seeds.

    A trial that names no process was asked for by one that died with the lock.
    """
    for trial in _running(study):
        host, _, process = str(trial.user_attrs.get("worker", "")).rpartition(":")
        if not process or (
            host == socket.gethostname() and (int(process) == os.getpid() or not is_alive(int(process)))
        ):
            study.tell(trial.number, state=TrialState.FAIL)
