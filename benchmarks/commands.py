"""``python -m benchmarks SUITE``, or a study: one command each; and what is made of their results.

Arguments of a timed suite after ``--`` go to pytest: ``-- -k linear``, ``-- --benchmark-json out.json``.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import timm
import typer
from rich.console import Console

from benchmarks import front
from benchmarks.protocol import Suite, run
from benchmarks.results import RESULTS, read
from benchmarks.settings import Settings
from benchmarks.studies import channels_accuracy, fading, field, kendall, progressive_vs_direct, searches
from benchmarks.suites import (
    blocks,
    channels_speed,
    engines,
    gpu,
    memory,
    merged_speed,
    micro,
    models,
    paper,
    projection,
    whole_models,
)
from updp_rt._names import SMALL_MODELS, unknown_model

SUITES = {
    module.SUITE.name: module.SUITE
    for module in (
        micro,
        blocks,
        models,
        paper,
        gpu,
        projection,
        whole_models,
        memory,
        engines,
        merged_speed,
        channels_speed,
    )
}
STUDIES = {
    suite.name: suite
    for suite in (
        progressive_vs_direct.SUITE,
        fading.SUITE,
        kendall.SUITE,
        searches.SUITE,
        channels_accuracy.SUITE,
        *field.SUITES,
    )
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Suites time candidates in turn, and only those whose numerics hold; studies train and compare. Results go to "
    "benchmarks/results/DEVICE/SUITE.csv. Arguments of a suite after -- go to pytest.",
)

DRAWN = "models,engines,paper,fading,field_cnn,field_vit,field_width"  # those that docs/measured.md shows
_PRECISIONS = ("float32", "bfloat16", "float16")
_KEPT_OUT = ("resume", "shard", "work", "out", "results_file", "rest")  # of the command that makes a result again


def _words(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _models(value: str) -> tuple[str, ...]:
    for name in _words(value):
        if name not in SMALL_MODELS and not timm.is_model(name):
            raise typer.BadParameter(unknown_model(name, timm.list_models()))
    return _words(value)


def _precisions(value: str) -> tuple[str, ...]:
    for name in _words(value):
        if name not in _PRECISIONS:
            raise typer.BadParameter(f"unknown precision {name!r}: choose among {', '.join(_PRECISIONS)}")
    return _words(value)


def _numbers(value: str, kind: type = int) -> tuple[Any, ...]:
    try:
        return tuple(map(kind, _words(value)))
    except ValueError as error:
        raise typer.BadParameter(f"numbers separated by commas are wanted, not {value!r}") from error


def _part(value: str) -> tuple[int, int]:
    part, _, parts = value.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise typer.BadParameter(f"a part such as 1/4 is wanted, not {value!r}")
    return int(part), int(parts)


def _listed(*names: str, help: str) -> Any:
    return Annotated[str, typer.Option(*names, help=f"{help}, separated by commas. Default: the suite's.")]


# What parses those that are written as text.
_LISTS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "models": _models,
    "batches": _numbers,
    "dtypes": _precisions,
    "pruned": _numbers,
    "seeds": _numbers,
    "amounts": partial(_numbers, kind=float),
    "importance": _words,
    "methods": _words,
    "engines": _words,
    "shard": _part,
}
# Named as timm's benchmark.py names them, where it has them.
_OPTIONS: dict[str, Any] = {
    "device": Annotated[str, typer.Option(help="cpu or cuda.")],
    "models": _listed("--model", "-m", help="Models"),
    "batches": _listed("--batch-size", "-b", help="Batch sizes"),
    "dtypes": _listed("--precision", help="float32, bfloat16, float16"),
    "image_size": Annotated[int, typer.Option("--img-size", help="Height and width of the images.")],
    "pruned": _listed("--pruned", help="How many blocks are merged in the variants, such as 0,3,6"),
    "channels_last": Annotated[bool, typer.Option("--channels-last", help="Models and images in channels_last.")],
    "seeds": _listed("--seeds", help="Seeds"),
    "amounts": _listed("--amounts", help="Shares that are dropped"),
    "importance": _listed("--importance", help="Measures of importance"),
    "methods": _listed("--methods", help="Methods of pruning"),
    "scope": Annotated[str, typer.Option(help="global: of the parameters; local: of each layer's inputs.")],
    "data": Annotated[str, typer.Option(help="digits, fashion-mnist or idx/FOLDER.")],
    "epochs": Annotated[int | None, typer.Option(help="Epochs of the subnets, instead of the study's.", min=1)],
    "lr": Annotated[float | None, typer.Option(help="Learning rate of the subnets, instead of the study's.")],
    "warm_calls": Annotated[int, typer.Option("--num-warm-iter", help="Calls before the first that counts.", min=1)],
    "rounds": Annotated[int, typer.Option("--num-bench-iter", help="Rounds in which all candidates run.", min=1)],
    "seconds": Annotated[float, typer.Option("--time-limit", help="Seconds a candidate; no round begins after.")],
    "minutes": Annotated[float | None, typer.Option(help="Begin nothing that would not end within them.")],
    "compiler": Annotated[str, typer.Option("--torchcompile", help="torch.compile's backend; none leaves it out.")],
    "engines": _listed("--engines", help="Other runtimes: onnxruntime, openvino, migraphx; none leaves them out"),
    "compile_mode": Annotated[str | None, typer.Option("--torchcompile-mode", help="torch.compile's mode.")],
    "library_search": Annotated[bool, typer.Option(help="cuDNN or MIOpen tries all algorithms, slow at first.")],
    "memory": Annotated[bool, typer.Option(help="Measure each variant's peak memory, in its own process.")],
    "upscale": Annotated[Path | None, typer.Option(help="Folder of the published package `upscale`.")],
    "shard": Annotated[str, typer.Option(help="A part of the work, such as 1/4; all parts go on with one result.")],
    "work": Annotated[Path, typer.Option(help="Folder of trained baselines and checkpoints.")],
    "resume": Annotated[bool, typer.Option("--resume", help="Keep what an earlier run has measured here.")],
    "out": Annotated[Path | None, typer.Option(help="Folder of the results, instead of results/DEVICE.")],
    "results_file": Annotated[Path | None, typer.Option(help="Also write a CSV with timm's columns here.")],
}
_Rest = Annotated[list[str] | None, typer.Argument(metavar="[-- PYTEST...]", help="Passed on to pytest.")]


def _command(suite: Suite) -> Callable[..., None]:
    """A command with the options that the suite reads."""

    def command(*, context: typer.Context, rest: list[str] | None = None, **given: Any) -> None:
        _run(suite, given, rest or [], _typed(suite, context))

    defaults = {**vars(Settings()), **suite.defaults}
    parameters: dict[str, tuple[Any, Any]] = {"context": (typer.Context, inspect.Parameter.empty)}
    parameters |= {name: (_OPTIONS[name], "" if name in _LISTS else defaults[name]) for name in suite.all_options}
    if suite.timed:
        parameters["rest"] = (_Rest, None)
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [inspect.Parameter(n, kind, annotation=a, default=d) for n, (a, d) in parameters.items()]
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {name: annotation for name, (annotation, _) in parameters.items()}
    return command


for _suite in (*SUITES.values(), *STUDIES.values()):
    app.command(_suite.name, help=_suite.help)(_command(_suite))


def _run(suite: Suite, given: dict[str, Any], rest: list[str], typed: str) -> None:
    chosen = {name: value for name, value in given.items() if value != "" and value is not None}
    parsed = {name: _LISTS[name](value) if name in _LISTS else value for name, value in chosen.items()}
    settings = Settings(**{**suite.defaults, **parsed, "command": typed})
    if settings.device not in ("cpu", "cuda"):
        raise typer.BadParameter("cpu or cuda is wanted", param_hint="--device")
    if settings.on_gpu and Settings().device != "cuda":
        raise typer.BadParameter("torch sees no GPU here; give --device cpu", param_hint="--device")
    console = Console(width=160)
    if suite.timed:
        record, code = front.run(suite, settings, rest)
    else:
        try:
            record, code = run(suite, settings, console), 0
        except ValueError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(2) from error
    if record is not None and code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        rows = read(record.path).rows
        for table in suite.tables(rows):
            console.print(table.to_rich())
        if settings.results_file:
            models.write_timm(settings.results_file, rows)
        print(f"written: {record.path}")
        code = code or int(any("wrong" in row for row in rows))
    raise typer.Exit(code)


def _typed(suite: Suite, context: typer.Context) -> str:
    """The command that makes the result again: with the options that were given."""
    words = ["python", "-m", "benchmarks", suite.name]
    for parameter in context.command.params:
        name, source = parameter.name or "", context.get_parameter_source(parameter.name or "")
        if name not in _KEPT_OUT and source is not None and source.name == "COMMANDLINE":
            value = context.params[name]
            flag = parameter.opts[0] if value is not False else parameter.secondary_opts[0]
            words += [flag] if isinstance(value, bool) else [flag, str(value)]
    return shlex.join(words)


@app.command()
def compare(
    before: Path,
    after: Path,
    only_changed: Annotated[bool, typer.Option(help="Leave out what is within noise.")] = False,
) -> None:
    """Two results of one suite side by side: what became faster, what slower, what is within the noise."""
    from benchmarks.compare import compare as compared

    try:
        table = compared(read(before), read(after), only_changed)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    Console(width=160).print(table)


@app.command()
def join(into: Path, others: list[Path]) -> None:
    """Add to one result of a study what others hold, as from other machines."""
    from benchmarks.results import join as joined

    try:
        added = joined(into, others)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"{added} cases added, written: {into}")


@app.command()
def page() -> None:
    """Write docs/measured.md from the results kept in the repository."""
    from benchmarks.page import PATH, make_page
    from updp_rt.artifacts.atomic import write_text

    write_text(PATH, make_page())
    print(f"written: {PATH}")


@app.command()
def pictures(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of results; all in benchmarks/results.")] = None,
    suites: Annotated[str, typer.Option(help="Which, separated by commas; micro and blocks too.")] = DRAWN,
) -> None:
    """Draw the results of these suites; a PNG of its name beside each."""
    from benchmarks.pictures import draw_folder

    try:
        chosen = folders or sorted(path for path in RESULTS.iterdir() if path.is_dir())
        drawn = [path for folder in chosen for path in draw_folder(folder, _words(suites))]
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if not drawn:
        raise SystemExit(f"no result of {suites} there: python -m benchmarks SUITE makes one")
    for path in drawn:
        print(path)


@app.command()
def freeze() -> None:
    """Write frozen.json, the problems that the four models meet, from the models."""
    from benchmarks.problems import freeze as write_frozen
    from updp_rt.backends.frozen import PATH

    print(f"{write_frozen()} problems, written: {PATH.name}")


@app.command()
def rank() -> None:
    """Write the ranking that ships for gfx908: projected times of all kernels, by which dispatch orders them."""
    from benchmarks.ranking import PATH
    from benchmarks.ranking import rank as write_ranking
    from updp_rt.cli.progress import counted
    from updp_rt.projection import LABEL

    with counted(f"projecting ({LABEL})") as advance:
        print(f"{write_ranking(advance)} problems, written: {PATH.name}")
