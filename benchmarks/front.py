"""The suites as pytest items, one a case and candidate, so that pytest-benchmark shows and keeps their times too.

pytest-benchmark would time one function after the other. Here a case is measured as a whole, its candidates in turn,
and each candidate's item then plays its samples back to pytest-benchmark, whose tables, ``--benchmark-json``,
``--benchmark-save`` and ``compare`` work as ever. `run` gives pytest this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.protocol import NOTHING, Case, Record, Suite
from benchmarks.settings import Settings


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


class _Given:
    """Hands pytest what is to be measured, and leaves the terminal to its lines."""

    def __init__(self, suite: Suite, settings: Settings) -> None:
        self.suite, self.settings = suite, settings
        self.record: Record | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[_GIVEN] = self

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome if report.when == "call" or report.outcome != "passed" else "", "", ""


_GIVEN = pytest.StashKey[_Given]()
_CLOCK = ReplayClock()
pytestmark = pytest.mark.benchmark(timer=_CLOCK)


def run(suite: Suite, settings: Settings, arguments: Sequence[str] = ()) -> tuple[Record | None, int]:
    """Measure a suite by pytest; `arguments` go to it. The record, if measuring began, and pytest's exit status."""
    given = _Given(suite, settings)
    quiet = ["-p", "no:cacheprovider", "-p", "no:xdist", "-rfs", "--disable-warnings", "--benchmark-quiet"]
    code = pytest.main([str(Path(__file__)), *quiet, *arguments], plugins=[given])
    return given.record, int(code)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item a case and candidate, those of a case together."""
    given = metafunc.config.stash[_GIVEN]
    cases = list(given.suite.cases(given.settings))
    items = [pytest.param(case, name, id=f"{case}-{name}") for case in cases for name in case.candidates]
    if not items:
        raise pytest.UsageError(NOTHING)
    metafunc.parametrize(("case", "candidate"), items)


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    """The run."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    given, plugins = request.config.stash[_GIVEN], request.config.pluginmanager
    capture: Any = plugins.get_plugin("capturemanager")
    terminal: Any = plugins.get_plugin("terminalreporter")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)
            terminal.flush()

    items: list[Any] = request.session.items
    total = len({item.callspec.params["case"].key for item in items})
    try:
        given.record = Record(given.suite, given.settings, tell, total)
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    return given.record


def test_candidate(case: Case, candidate: str, record: Record, benchmark: Any) -> None:
    """Shows one candidate: its time, or why it has none. One whose numerics are wrong fails."""
    row: Callable[[str], Any] = next(row for row in record.rows_of(case) if row["candidate"] == candidate).get
    benchmark.group = case.key
    if row("wrong"):
        pytest.fail(f"no time of {candidate} for {case.key}: {row('wrong')}", pytrace=False)
    if row("left_out"):
        pytest.skip(row("left_out"))
    benchmark.extra_info.update({key: row(key) for key in ("median_ms", "q1_ms", "q3_ms", "rounds") if row(key)})
    samples = record.samples.get(case.key)
    if samples is None:
        pytest.skip("taken from an earlier run")
    if candidate not in samples:
        pytest.skip("it is not timed")
    _CLOCK.replay(benchmark, samples[candidate])
