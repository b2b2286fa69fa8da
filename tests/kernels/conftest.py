"""Says aloud when the emulator, and with it every run of compiled code, was missing."""

from __future__ import annotations

import pytest

from tests.kernels.emulator import find_emulator


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if find_emulator() is None and any("test_emulator" in report.nodeid for report in skipped):
        terminalreporter.section("NOT RUN", red=True, bold=True)
        message = "compiled gfx908 kernels: emulator absent. Set GFX908EMU to the folder that holds gfx908emu/."
        terminalreporter.write_line(f"NOT RUN: {message}", red=True, bold=True)
