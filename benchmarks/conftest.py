"""The suites' fixture: a candidate's samples, measured beside the others', for pytest-benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.suite import CLOCK, Case, Record, flat_rows, settings_of


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    """The module's run."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    plugins = request.config.pluginmanager
    capture, terminal = plugins.get_plugin("capturemanager"), plugins.get_plugin("terminalreporter")

    def tell(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)
            terminal.flush()

    chosen = {item.callspec.params["case"].key for item in request.session.items if item.module is request.module}
    settings, flatten = settings_of(request.config), getattr(request.module, "flatten", flat_rows)
    try:
        return Record(request.module.SUITE, settings, tell, flatten, total=len(chosen))
    except ValueError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture
def report(record: Record, benchmark: Any) -> Callable[[Case, str], None]:
    """Reports one candidate: its time, or why it has none. One whose numerics are red fails."""

    def run(case: Case, candidate: str) -> None:
        row = record.row(case)
        benchmark.group = case.key
        if candidate in row["red"]:
            pytest.fail(f"no time of {candidate} for {case.key}: {row['red'][candidate]}", pytrace=False)
        if candidate in row["left_out"]:
            pytest.skip(row["left_out"][candidate])
        summary = row["candidates"][candidate]
        benchmark.extra_info.update(summary)
        samples = record.samples.get(case.key)
        if samples is None:
            pytest.skip("taken from an earlier run")
        CLOCK.replay(benchmark, samples[candidate])

    return run
