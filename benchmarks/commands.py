"""``python -m benchmarks micro``, ``blocks``, ``models``, ``paper``: one command a suite, on CPU and GPU alike.

Arguments after ``--`` go to pytest: ``-- -k linear``, ``-- --benchmark-json out.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from rich.console import Console

from benchmarks.suite import SETTINGS, Settings
from benchmarks.suite_tables import TABLES, load

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Benchmark suites. Candidates are timed in turn, and only those whose numerics hold; results go to "
    "benchmarks/results/DEVICE/ as JSON and CSV. Arguments after -- go to pytest.",
)

# Named as timm's benchmark.py names them, where it has them.
Models = Annotated[str, typer.Option("--model", "-m", help="Models, separated by commas. Default: the suite's.")]
Batches = Annotated[str, typer.Option("--batch-size", "-b", help="Batch sizes, by commas. Default: the suite's.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16, float16, by commas. Default: those that suit here.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
ImageSize = Annotated[int, typer.Option("--img-size", help="Height and width of the images.")]
Pruned = Annotated[str, typer.Option(help="How many blocks are merged in the variants, by commas, such as 0,3,6.")]
ChannelsLast = Annotated[bool, typer.Option("--channels-last", help="Models and images in channels_last.")]
Warm = Annotated[int, typer.Option("--num-warm-iter", help="Calls before the first that counts.", min=1)]
Rounds = Annotated[int, typer.Option("--num-bench-iter", help="Rounds in which all candidates take turns.", min=1)]
Seconds = Annotated[float, typer.Option("--time-limit", help="Seconds a candidate, after which no round is begun.")]
Minutes = Annotated[float | None, typer.Option(help="Begin nothing that would not end within so many minutes.")]
Compiler = Annotated[str, typer.Option("--torchcompile", help="torch.compile's backend; none leaves it out.")]
CompileMode = Annotated[str | None, typer.Option("--torchcompile-mode", help="torch.compile's mode.")]
Memory = Annotated[bool, typer.Option(help="Measure each variant's peak memory, in a process of its own.")]
Resume = Annotated[bool, typer.Option("--resume", help="Keep what an earlier run has measured in the same place.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results, instead of benchmarks/results/DEVICE.")]
ResultsFile = Annotated[Path | None, typer.Option(help="Also write the CSV here.")]
Rest = Annotated[list[str] | None, typer.Argument(metavar="[-- PYTEST...]", help="Passed on to pytest.")]

_DEFAULT = Settings()
_PRECISIONS = ("float32", "bfloat16", "float16")


@app.command()
def micro(
    models: Models = "",
    batches: Batches = "",
    precision: Precision = "",
    device: Device = _DEFAULT.device,
    warm: Warm = _DEFAULT.warm_calls,
    rounds: Rounds = _DEFAULT.rounds,
    seconds: Seconds = 2.0,
    minutes: Minutes = None,
    compiler: Compiler = _DEFAULT.compiler,
    compile_mode: CompileMode = None,
    resume: Resume = False,
    out: Out = None,
    rest: Rest = None,
) -> None:
    """Every fused operator on the frozen problems of the four models."""
    _run("micro", **locals())


@app.command()
def blocks(
    models: Models = "",
    batches: Batches = "",
    precision: Precision = "",
    device: Device = _DEFAULT.device,
    image_size: ImageSize = _DEFAULT.image_size,
    warm: Warm = _DEFAULT.warm_calls,
    rounds: Rounds = _DEFAULT.rounds,
    seconds: Seconds = 5.0,
    minutes: Minutes = None,
    compiler: Compiler = _DEFAULT.compiler,
    compile_mode: CompileMode = None,
    resume: Resume = False,
    out: Out = None,
    rest: Rest = None,
) -> None:
    """Baseline block, pruned block, merged block, merged block on fused kernels: every kind of block of each model."""
    _run("blocks", **locals())


@app.command()
def models(
    models: Models = "",
    batches: Batches = "",
    precision: Precision = "",
    device: Device = _DEFAULT.device,
    image_size: ImageSize = _DEFAULT.image_size,
    pruned: Pruned = "",
    channels_last: ChannelsLast = False,
    warm: Warm = _DEFAULT.warm_calls,
    rounds: Rounds = _DEFAULT.rounds,
    seconds: Seconds = 30.0,
    minutes: Minutes = None,
    compiler: Compiler = _DEFAULT.compiler,
    compile_mode: CompileMode = None,
    memory: Memory = True,
    resume: Resume = False,
    out: Out = None,
    results_file: ResultsFile = None,
    rest: Rest = None,
) -> None:
    """Whole models, P0, P3, P6: eager, compiled, accelerated; throughput, latency, peak memory; CSV as timm's."""
    _run("models", **locals())


@app.command()
def paper(
    models: Models = "",
    batches: Batches = "",
    precision: Precision = "float32",
    device: Device = _DEFAULT.device,
    pruned: Pruned = "",
    channels_last: ChannelsLast = False,
    warm: Warm = 1,
    rounds: Rounds = 5,
    seconds: Seconds = 60.0,
    minutes: Minutes = None,
    resume: Resume = False,
    out: Out = None,
    rest: Rest = None,
) -> None:
    """ConvNeXt's P-variants among peers from timm, and DeiT-Tiny's, at batch 128, with the paper's speedup columns."""
    _run("paper", **locals())


class _Given:
    """Hands the settings to the suite, and leaves the terminal to its lines."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[SETTINGS] = self.settings

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        return report.outcome if report.when == "call" or report.outcome != "passed" else "", "", ""


def _run(suite: str, *, rest: list[str] | None, **given: Any) -> None:
    settings = Settings(**_parsed(given))
    if settings.device not in ("cpu", "cuda"):
        raise typer.BadParameter("cpu or cuda is wanted", param_hint="--device")
    if settings.on_gpu and not _DEFAULT.on_gpu:
        raise typer.BadParameter("torch sees no GPU here; give --device cpu", param_hint="--device")
    module = Path(__file__).with_name(f"test_{suite}.py")
    code = pytest.main(
        [
            str(module),
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "-rfs",
            "--disable-warnings",
            "--benchmark-quiet",
            *(rest or []),
        ],
        plugins=[_Given(settings)],
    )
    path = settings.folder() / f"{suite}.json"
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        Console(width=160).print(TABLES[suite](load(path)["rows"]))
        print(f"written: {path}, and {path.with_suffix('.csv').name}")
    raise typer.Exit(int(code))


def _parsed(given: dict[str, Any]) -> dict[str, Any]:
    """A command's parameters as `Settings` has them, without those that were not given."""
    parse = {"models": _words, "precision": _precisions, "batches": _numbers, "pruned": _numbers}
    rename = {"precision": "dtypes", "warm": "warm_calls"}
    return {
        rename.get(key, key): parse[key](value) if key in parse else value
        for key, value in given.items()
        if value not in ("", None)
    }


def _words(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _precisions(value: str) -> tuple[str, ...]:
    for name in _words(value):
        if name not in _PRECISIONS:
            raise typer.BadParameter(f"unknown precision {name!r}: choose among {', '.join(_PRECISIONS)}")
    return _words(value)


def _numbers(value: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, _words(value)))
    except ValueError as error:
        raise typer.BadParameter(f"numbers separated by commas are wanted, not {value!r}") from error
