"""Ahead-of-time compilation of the device code: one code object an operator and architecture, no GPU needed."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from . import manifest, objects
from .compilers import Compiler, CompilerError, find_compiler
from .figures import amd_figures, nvidia_figures
from .manifest import HipKernel, Manifest, MissingObjectsError, Recipe


def build(
    archs: Sequence[str],
    out: Path | None = None,
    *,
    force: bool = False,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Compile every operator for each of `archs`; a build that is interrupted or fails leaves the old objects whole.

    Args:
        archs: such as ``["gfx908", "gfx90a", "sm_90"]``.
        out: the folder of objects; by default within the package if that can be written, else the user's cache.
        force: compile even where neither sources, compiler nor flags have changed since the last time.
        advance: called with the numbers of files compiled and to compile, as they change.

    Returns:
        The folder of each architecture.

    Raises:
        CompilerError: an architecture is unknown, nothing compiles for it, or a compiler refuses the code.
        OSError: `out` cannot be written.
    """
    out = out or objects.default_folder()
    compilers = {arch: find_compiler(arch) for arch in archs}
    recipes = {arch: _recipe(arch, compiler) for arch, compiler in compilers.items()}
    stale = [arch for arch in compilers if force or not _is_current(out / arch, recipes[arch])]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as temporary:
        folders = {arch: Path(temporary) / arch for arch in stale}
        kernels = _compile_all({folders[arch]: compilers[arch] for arch in stale}, advance)
        for arch, folder in folders.items():
            _write_manifest(folder, recipes[arch], kernels[folder])
            _replace(out / arch, folder)
    objects.load.cache_clear()
    return [out / arch for arch in compilers]


def _recipe(arch: str, compiler: Compiler) -> Recipe:
    return Recipe(
        arch=arch,
        sources=manifest.source_hash(),
        compiler=f"{Path(compiler.program).name}: {compiler.version}",
        flags=compiler.flags,
    )


def _is_current(folder: Path, recipe: Recipe) -> bool:
    try:
        return objects.read_objects(folder).manifest.recipe == recipe
    except MissingObjectsError:
        return False


def _compile_all(folders: dict[Path, Compiler], advance: Callable[[int, int], None]) -> dict[Path, list[HipKernel]]:
    """Compile every source into each folder, as many at once as there are processors; the kernels in each."""
    sources = sorted(manifest.SOURCES.glob("*.hip"))
    kernels: dict[Path, list[HipKernel]] = {folder: [] for folder in folders}
    total = len(folders) * len(sources)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for folder in folders:
            folder.mkdir()
        jobs = {
            pool.submit(_compile, compiler, source, folder): folder
            for folder, compiler in folders.items()
            for source in sources
        }
        try:
            for done, job in enumerate(as_completed(jobs)):
                advance(done, total)
                kernels[jobs[job]] += job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    advance(total, total)
    return kernels


def _compile(compiler: Compiler, source: Path, folder: Path) -> list[HipKernel]:
    target = folder / f"{source.stem}{compiler.suffix}"
    report = compiler.compile(source, target)
    figures = nvidia_figures(report) if compiler.suffix == ".cubin" else amd_figures(target.read_bytes())
    if not figures and compiler.suffix != ".cubin":  # some are for gfx alone
        raise CompilerError(f"{source.name} holds no kernels")
    return [HipKernel.parse(name, found) for name, found in figures.items()]


def _write_manifest(folder: Path, recipe: Recipe, kernels: list[HipKernel]) -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    ordered = tuple(sorted(kernels, key=lambda kernel: kernel.name))
    record = Manifest(recipe=recipe, objects=digests, kernels=ordered)
    (folder / manifest.FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _replace(target: Path, folder: Path) -> None:
    """Put `folder` in the place of `target`, which may not exist; what was there goes with the temporary folder."""
    aside = folder.with_name(f"{folder.name}-before")
    if target.exists():
        target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
