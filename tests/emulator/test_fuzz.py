"""A few random programs, from fixed seeds; ``python -m tests.emulator.fuzz`` tries many more."""

from __future__ import annotations

import pytest

from tests.emulator import fuzz
from tests.emulator.programs import program, translation_unit
from tests.marks import slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [0, *(slow(n * fuzz.BATCH) for n in range(1, 8))],
)
def test_random_programs_compute_what_the_host_computes(first: int) -> None:
    assert list(fuzz.findings(list(range(first, first + fuzz.BATCH)))) == []


def test_a_program_is_a_function_of_its_seed() -> None:
    assert program(5) == program(5) != program(6)


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(seeds: list[int]) -> str:
        """On the GPU an addition adds one more."""
        text = translation_unit(seeds)
        return text.replace("finish(out + index * OUTPUTS", "s.u32_2 += 1; finish(out + index * OUTPUTS")

    monkeypatch.setattr(fuzz, "translation_unit", otherwise)
    found = list(fuzz.findings([0]))
    assert len(found) == len(fuzz.LEVELS)
    assert "program 0 at -O1: 256 values differ; u32_2 of lane 0 is 0x" in found[0]


def test_a_fault_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(seeds: list[int]) -> str:
        return translation_unit(seeds).replace("finish(out + index", "finish(out + (index + 1)")

    monkeypatch.setattr(fuzz, "translation_unit", otherwise)
    assert all("past the end of argument 2" in finding for finding in fuzz.findings([0]))
