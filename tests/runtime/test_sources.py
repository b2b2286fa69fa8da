"""What a certificate swears to: every file whose code runs is among its backend's sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import updp_rt
from tests.runtime.conftest import model_and_images
from updp_rt.backends import BACKENDS
from updp_rt.runtime import device
from updp_rt.verification import Certificate
from updp_rt.verification.changes import changes_since

PACKAGE = Path(updp_rt.__file__).parent
KERNELS = {"triton": "kernels/triton", "hip": "kernels/hip"}


@pytest.fixture(autouse=True)
def _fresh_digests() -> Iterator[None]:
    yield
    device.source_digests.cache_clear()


def imported(path: Path) -> Iterator[Path]:
    """The product's files that one file imports."""
    package = "updp_rt." + ".".join(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.rstrip(".").split(".")[: len(package.split(".")) - node.level + 1])
            module = node.module or "" if not node.level else ".".join(filter(None, (above, node.module)))
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("updp_rt."):
                place = PACKAGE.joinpath(*name.split(".")[1:])
                yield from (p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file())


def reached(backend: str) -> set[str]:
    """Files that the backend's own file imports, and those that these import, below ops, backends and kernels."""
    todo, found = [PACKAGE / "backends" / f"{backend}.py"], set()
    while todo:
        path = todo.pop()
        name = path.relative_to(PACKAGE).as_posix()
        if name not in found and name.split("/")[0] in ("ops", "backends", "kernels"):
            found.add(name)
            todo += imported(path)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_file_that_a_backend_reaches_is_among_its_sources(backend: str) -> None:
    other = {f"{folder}/" for name, folder in KERNELS.items() if name != backend}
    # The registry of backends and another language's kernels are imported, and run nothing of this backend's.
    wanted = {name for name in reached(backend) if not name.startswith(tuple(other))} - {"backends/__init__.py"}
    assert len(wanted) > 10, "imports were not followed"
    assert wanted - set(device.source_digests(backend)) == set()


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("reference", {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "ops").glob("*.py")}),
        ("onednn", {"backends/base.py", "backends/onednn.py", "ops/folding.py"}),
        ("triton", {"backends/fused.py", "kernels/packing.py", "kernels/checks/conv2d.py", "kernels/triton/conv2d.py"}),
        ("hip", {"backends/fused.py", "kernels/packing.py", "kernels/checks/conv2d.py", "kernels/hip/conv2d.hip"}),
        ("hip", {"kernels/hip/gemm.h", "kernels/hip/launch.py", "kernels/hip/conv2d.py"}),
        ("vendor", {"kernels/triton/epilogue.py", "kernels/hip/epilogue.hip", "kernels/triton/tile_tables.py"}),
    ],
)
def test_files_that_run_are_listed(backend: str, files: set[str]) -> None:
    assert files <= set(device.source_digests(backend))


def test_every_file_of_operators_backends_and_kernels_is_some_backends() -> None:
    listed = {name for backend in BACKENDS for name in device.source_digests(backend)}
    there = {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("ops", "backends", "kernels")
        for suffix in ("py", "h", "hip")
        for path in (PACKAGE / folder).rglob(f"*.{suffix}")
    }
    assert there - listed <= {"backends/__init__.py"}


def test_the_files_changed_since_a_certificate_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = model_and_images("resnet18")
    model = model.layer1[0]
    images = images.new_ones(2, 64, 8, 8).normal_()
    fast = updp_rt.accelerate(model, images, backends=["reference"])
    old = updp_rt.verify(model, fast, images)
    path = old.save(tmp_path / "certificate.json")
    for name in {name for backend in BACKENDS for name in device.source_digests(backend)}:
        copied = tmp_path / "package" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes((PACKAGE / name).read_bytes())
    monkeypatch.setattr(updp_rt, "__file__", str(tmp_path / "package" / "__init__.py"))
    for name in ("ops/conv2d.py", "backends/reference.py"):
        edited = tmp_path / "package" / name
        edited.write_text(edited.read_text() + "# edited\n")
    device.source_digests.cache_clear()
    again = updp_rt.verify(model, fast, images)
    lines = changes_since(Certificate.load(path), again)
    assert [line.partition(":")[0] for line in lines if line.startswith("source")] == [
        "source backends/reference.py",
        "source ops/conv2d.py",
    ]
    assert again.sources["reference"] != old.sources["reference"]
