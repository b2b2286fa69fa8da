"""Random programs, compiled for the host and for gfx908 from the same text, must compute the same bits.

``python -m tests.emulator.fuzz --count 1000`` tries many; ``--show SEED`` prints one.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.emulator.operations import TYPES, VARIABLES
from tests.emulator.programs import INPUTS, LANES, MEETING, OUTPUTS, program, translation_unit
from updp_rt.emulator import Fault, Module
from updp_rt.kernels.hip.compilers import find_compiler

GROUPS = 2
BATCH = 12  # programs a compiler is called for at once
LEVELS = ("-O1", "-O3")
PATIENCE = 20  # seconds of a processor for one compilation; now and then clang is lost in a program
_FLAGS = ("-std=c++17", "-w", "-fno-crash-diagnostics", f"-I{Path(__file__).parent}")
# The language leaves nothing open to the compiler that programs.py does not.
_MEANING = ("-fwrapv", "-fno-strict-aliasing", "-ffp-contract=off", *_FLAGS)
_NAMES = [name for kind in TYPES for name in VARIABLES[kind]] + [f"table[{i}]" for i in range(8)]


def findings(seeds: list[int]) -> Iterator[str]:
    """What is wrong with programs of these seeds, one message each and per level of optimisation.

    Raises:
        CalledProcessError: a program does not compile, or not within `PATIENCE`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "programs.cpp"
        source.write_text(translation_unit(seeds))
        host = _compile_for_host(source)
        modules = {level: _compile_for_gfx908(source, level) for level in LEVELS}
        for seed in seeds:
            inputs, words = _inputs(seed)
            wanted = _run_on_host(getattr(host, f"host_{seed}"), inputs, words)
            for level, module in modules.items():
                try:
                    found = _run_on_gfx908(module, f"device_{seed}", inputs, words, seed)
                except Fault as fault:
                    yield f"program {seed} at {level}: {fault}"
                    continue
                if difference := _difference(found, wanted):
                    yield f"program {seed} at {level}: {difference}"


Results = tuple[np.ndarray, np.ndarray]  # of every lane, and what workgroups share


def _compile_for_host(source: Path) -> ctypes.CDLL:
    library = source.with_suffix(".so")
    clang = find_compiler("gfx908").program
    _compile([clang, "-x", "c++", "-O1", *_MEANING, "-fPIC", "-shared", str(source), "-o", str(library), "-lm"])
    return ctypes.CDLL(str(library))


def _compile_for_gfx908(source: Path, level: str) -> Module:
    compiler = find_compiler("gfx908")
    target = source.with_name(f"programs{level}.hsaco")
    _compile([compiler.program, *compiler.flags, level, *_MEANING, str(source), "-o", str(target)])
    return Module(target)


def _compile(command: list[str]) -> None:
    limit = (PATIENCE, PATIENCE)
    subprocess.run(command, check=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limit))


def _inputs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Words of input: small integers, floats, powers of two and their neighbours, and any bits."""
    rng = np.random.default_rng(seed)
    size = GROUPS * LANES + 1, INPUTS
    powers = (1 << rng.integers(0, 32, size)) + rng.integers(-1, 2, size)
    floats = (rng.standard_normal(size) * 2.0 ** rng.integers(-8, 9, size)).astype(np.float32).view(np.uint32)
    kinds = [rng.integers(-9, 10, size), floats, powers, rng.integers(0, 1 << 32, size)]
    chosen = rng.integers(0, len(kinds), size)
    words = np.choose(chosen, [np.asarray(kind, np.int64) & 0xFFFFFFFF for kind in kinds]).astype(np.uint32)
    return np.ascontiguousarray(words[1:]), words[0].copy()


def _fresh_results() -> Results:
    return np.full((GROUPS * LANES, OUTPUTS), 0xDEADBEEF, np.uint64), np.arange(2 * MEETING, dtype=np.uint32)


def _run_on_host(function: ctypes._NamedFuncPointer, inputs: np.ndarray, words: np.ndarray) -> Results:
    out, shared = _fresh_results()
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (inputs, out, shared, words)), ctypes.c_uint32(GROUPS))
    return out, shared


def _run_on_gfx908(module: Module, kernel: str, inputs: np.ndarray, words: np.ndarray, seed: int) -> Results:
    out, shared = _fresh_results()
    inputs.flags.writeable = False
    waves = ("forward", "backward")[seed % 2]
    module.launch(
        kernel,
        GROUPS,
        LANES,
        inputs,
        out,
        shared,
        words.tobytes(),
        workgroups="shuffled",
        waves=waves,
        seed=seed,
        max_instructions=10_000_000,
    )
    return out, shared


def _difference(found: Results, wanted: Results) -> str | None:
    lanes, places = np.nonzero(found[0] != wanted[0])
    if lanes.size:
        lane, place = lanes[0], places[0]
        values = f"{found[0][lane, place]:#x}, not {wanted[0][lane, place]:#x}"
        return f"{lanes.size} values differ; {_NAMES[place]} of lane {lane} is {values}"
    if not np.array_equal(found[1], wanted[1]):
        return f"what workgroups share is {found[1]}, not {wanted[1]}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="programs (100)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (0)")
    parser.add_argument("--show", type=int, metavar="SEED", help="print one program instead")
    options = parser.parse_args()
    if options.show is not None:
        print(program(options.show))
        return
    wrong, left_out = 0, []
    waiting = [list(batch) for batch in _batches(range(options.first, options.first + options.count))]
    while waiting:
        seeds = waiting.pop(0)
        try:
            for finding in findings(seeds):
                print(finding, flush=True)
                wrong += 1
        except subprocess.CalledProcessError:
            if len(seeds) == 1:
                left_out += seeds
            else:
                waiting = [[seed] for seed in seeds] + waiting
    print(f"{options.count - len(left_out)} programs at {' and '.join(LEVELS)}: {wrong} findings")
    if left_out:
        print(f"left out, not compiled within {PATIENCE} s: programs {', '.join(map(str, left_out))}")
    raise SystemExit(wrong > 0)


def _batches(seeds: range) -> list[range]:
    return [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]


if __name__ == "__main__":
    main()
