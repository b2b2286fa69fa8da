"""What the suites share: their settings, and the record of one run, which measures case by case and writes as it goes.

pytest-benchmark would time one function after the other. Here a case (a problem, a block, a model) is measured as a
whole, its candidates in turn, and each candidate's pytest item then plays its samples back to pytest-benchmark, whose
tables, ``--benchmark-json``, ``--benchmark-save`` and ``compare`` work as ever.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.common import RESULTS, provenance
from benchmarks.gpu_shapes import first_line
from benchmarks.samples import Summary
from updp_rt._timing import sample_side_by_side
from updp_rt.artifacts.atomic import atomic_path, write_json
from updp_rt.runtime.device import device_name, environment


@dataclass(frozen=True)
class Settings:
    """How a suite measures. None: what suits the suite and the device.

    Attributes:
        batches: batch sizes.
        pruned: how many blocks are merged in each variant of a model.
        minutes: after these no further case is begun.
        seconds: after these, times the candidates of a case, no further round is begun but for the first three.
        compiler: torch.compile's backend; "none" leaves it out. `compile_mode` is its mode.
        resume: keep the rows of an earlier run in the same surroundings.
        out: folder of the results; `results_file`: where a suite's CSV is written once more.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    models: tuple[str, ...] | None = None
    batches: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    image_size: int = 224
    pruned: tuple[int, ...] | None = None
    channels_last: bool = False
    warm_calls: int = 2
    rounds: int = 11
    seconds: float = 60.0
    minutes: float | None = None
    compiler: str = "inductor"
    compile_mode: str | None = None
    memory: bool = True
    resume: bool = False
    out: Path | None = None
    results_file: Path | None = None

    @property
    def place(self) -> torch.device:
        return torch.device(self.device, torch.cuda.current_device()) if self.on_gpu else torch.device(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def batches_or(self, cpu: tuple[int, ...], gpu: tuple[int, ...]) -> tuple[int, ...]:
        return self.batches or (gpu if self.on_gpu else cpu)

    @property
    def dtypes_or_default(self) -> tuple[str, ...]:
        return self.dtypes or (("float16", "bfloat16", "float32") if self.on_gpu else ("float32", "bfloat16"))

    def sample(
        self,
        calls: Mapping[str, Callable[[], object]],
        round_seconds: float,
        each_round: Callable[[int], None] | None = None,
    ) -> dict[str, list[float]]:
        """Seconds a call of each candidate in every round, taken as these settings say."""
        return sample_side_by_side(
            calls,
            rounds=self.rounds,
            round_seconds=round_seconds,
            device=self.place,
            warm_calls=self.warm_calls,
            limit_seconds=self.seconds * len(calls),
            each_round=each_round,
        )

    def folder(self) -> Path:
        return self.out or RESULTS / device_name(self.place)


SETTINGS = pytest.StashKey[Settings]()


@dataclass
class Measured:
    """What one interleaved run of a case gave.

    Attributes:
        samples: seconds of each candidate, by round.
        red: why a candidate got no time: its numerics are wrong, or it failed.
        left_out: why a candidate was not tried.
        about: what else is known of the case; of a candidate, under ``candidates``, by its name.
    """

    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    red: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, dict[str, Any]] = field(default_factory=dict)


Tell = Callable[[str], None]  # shows a line of progress


@dataclass(frozen=True)
class Case:
    """One comparison: its name, what describes it, its candidates, and how it is measured."""

    key: str
    about: dict[str, Any]
    candidates: tuple[str, ...]
    measure: Callable[[Tell], Measured]

    def __str__(self) -> str:
        return self.key.replace(" ", "-")


def parametrize(metafunc: pytest.Metafunc, cases: Sequence[Case]) -> None:
    """One item a case and candidate, those of a case together.

    Raises:
        pytest.UsageError: there are none.
    """
    items = [pytest.param(case, name, id=f"{case}-{name}") for case in cases for name in case.candidates]
    if not items:
        raise pytest.UsageError("there is nothing to measure: this suite has none of the models named")
    metafunc.parametrize(("case", "candidate"), items)


def settings_of(config: pytest.Config) -> Settings:
    """Those given by ``python -m benchmarks``; the defaults under a bare ``pytest``."""
    return config.stash.get(SETTINGS, Settings())


# The rows of the CSV, made of those of the JSON.
Flatten = Callable[[Sequence[Mapping[str, Any]]], Iterator[dict[str, Any]]]


class Record:
    """One run of a suite of `total` cases: measures each once, and keeps the rows on disk after each.

    Raises:
        ValueError: it is to resume a run whose surroundings were others.
    """

    def __init__(self, suite: str, settings: Settings, tell: Tell, flatten: Flatten, total: int) -> None:
        self.settings, self.tell, self.flatten, self.total = settings, tell, flatten, total
        self.path = settings.folder() / f"{suite}.json"
        self.found = {
            "suite": suite,
            **provenance(settings.place),
            "environment": environment(settings.place),
            "rounds": settings.rounds,
            "compiler": settings.compiler,
            "compile_mode": settings.compile_mode,
            "channels_last": settings.channels_last,
        }
        self.rows: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, Mapping[str, Sequence[float]]] = {}
        self._begun = time.monotonic()
        self._longest = 0.0
        self._unfinished: set[str] = set()
        if settings.resume and self.path.exists():
            self.rows = self._earlier()
            # Kept as they are, unless this run asks for them: then they are measured again.
            self._unfinished = {key for key, row in self.rows.items() if row["left_out"] or row["red"]}
            tell(f"{len(self.rows) - len(self._unfinished)} cases are taken from {self.path.name}")

    def row(self, case: Case) -> dict[str, Any]:
        """The case's row; measured now if it is new."""
        known = self.rows.get(case.key)
        missing = known is None or (case.key not in self.samples and not set(case.candidates) <= _named(known))
        if missing or case.key in self._unfinished:
            self._unfinished.discard(case.key)
            self.rows[case.key] = self._measure(case)
            self._write()
        return self.rows[case.key]

    def _measure(self, case: Case) -> dict[str, Any]:
        start = time.monotonic()
        row: dict[str, Any] = {"case": case.key, **case.about}
        limit = self.settings.minutes
        if limit is not None and self._seconds() + self._longest > 60 * limit:
            reason = f"the {limit:g} minutes are up"
            if not any(reason in other["left_out"].values() for other in self.rows.values()):
                self.tell(f"{self._seconds():5.0f} s  {reason}")
            return row | {"candidates": {}, "red": {}, "left_out": dict.fromkeys(case.candidates, reason)}
        try:
            measured = case.measure(self._tell_part)
        except Exception as error:  # the other cases are still worth having
            measured = Measured(red=dict.fromkeys(case.candidates, f"it failed: {first_line(error)}"))
        self.samples[case.key] = measured.samples
        row |= measured.about
        row["candidates"] = {
            name: Summary.of(seconds).to_dict() | measured.candidates.get(name, {})
            for name, seconds in measured.samples.items()
        }
        row |= {"red": measured.red, "left_out": measured.left_out}
        self._longest = max(self._longest, time.monotonic() - start)
        times = ", ".join(f"{name} {value['median_ms']:.4g} ms" for name, value in row["candidates"].items())
        why = "".join(f"; {name}: {reason}" for name, reason in (measured.red | measured.left_out).items())
        self.tell(f"{self._seconds():5.0f} s  {len(self.samples)} of {self.total}  {case.key}: {times}{why}")
        return row

    def _tell_part(self, line: str) -> None:
        self.tell(f"{self._seconds():5.0f} s    {line}")

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _earlier(self) -> dict[str, dict[str, Any]]:
        stored = json.loads(self.path.read_text(encoding="utf-8"))
        for key in ("environment", "versions", "rounds", "compiler", "compile_mode", "channels_last"):
            if stored.get(key) != self.found[key]:
                raise ValueError(
                    f"{self.path.name} cannot be resumed: its {key} was {stored.get(key)}, not {self.found[key]}"
                )
        return {row["case"]: row for row in stored["rows"]}

    def _write(self) -> None:
        rows = list(self.rows.values())
        write_json(self.path, {**self.found, "rows": rows})
        for path in filter(None, (self.path.with_suffix(".csv"), self.settings.results_file)):
            write_csv(path, list(self.flatten(rows)))


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One flat row a candidate, with the reason where it has no time."""
    for row in rows:
        about = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
        for name, value in row["candidates"].items():
            yield {**about, "candidate": name, **value}
        for name, reason in (row["red"] | row["left_out"]).items():
            yield {**about, "candidate": name, "withheld": reason}


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV under the union of their columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _named(row: Mapping[str, Any]) -> set[str]:
    return {*row["candidates"], *row["red"], *row["left_out"]}


class ReplayClock:
    """A timer for pytest-benchmark under which a call takes as long as it is told to have taken."""

    def __init__(self) -> None:
        self._pending = 0.0

    def __call__(self) -> float:
        now, self._pending = self._pending, 0.0
        return now

    def replay(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Hand `seconds` to the `benchmark` fixture as its rounds."""
        left = iter(seconds)

        def call() -> None:
            self._pending = next(left)

        benchmark.pedantic(call, rounds=len(seconds))


CLOCK = ReplayClock()
