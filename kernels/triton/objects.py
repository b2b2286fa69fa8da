"""Kernels compiled ahead of time and carried along: launches that one of them fits compile nothing.

They lie beside HIP's, in ``<folder>/<arch>/triton.zip``: a code object for each form of launch, and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from updp_rt._cache import cache_folder

from ..hip import objects as hip_objects

FILE: Final = "triton.zip"
_NEAR = 2**31  # bytes of a tensor, and above any size

_log = logging.getLogger("updp_rt")


@dataclass(frozen=True)
class CarriedKernel:
    """A compiled kernel.

    Attributes:
        form: of the launches that it fits.
        name: its symbol.
        waves: of a workgroup.
        lds: dynamic bytes a workgroup.
        code: its code object.
    """

    form: str
    name: str
    waves: int
    lds: int
    code: bytes


def form_of(name: str, arguments: Sequence[Any], constants: Mapping[str, Any]) -> str | None:
    """What a carried kernel must have been compiled for to fit a launch; None: no carried kernel fits it.

    A kernel of one form takes any sizes. It relies on aligned tensors of these dtypes, each below 2 GB.

    Args:
        name: of the kernel.
        arguments: of the launch, None for a tensor that is not given.
        constants: those that are compiled in.
    """
    kinds: list[torch.dtype | bool] = []
    for value in arguments:
        if isinstance(value, Tensor):
            if value.data_ptr() % 16 or value.untyped_storage().nbytes() >= _NEAR:
                return None
            kinds.append(value.dtype)
        else:
            if isinstance(value, int) and value >= _NEAR:
                return None
            kinds.append(value is not None)
    return _form(name, tuple(kinds), tuple(constants.items()))


@cache  # a launch names its form in a few microseconds
def _form(name: str, kinds: tuple[torch.dtype | bool, ...], constants: tuple[tuple[str, Any], ...]) -> str:
    dtypes = [str(kind).removeprefix("torch.") for kind in kinds if isinstance(kind, torch.dtype)]
    named = dtypes[0] if len(set(dtypes)) == 1 else ",".join(dtypes)
    given = "".join("1" if kind else "0" for kind in kinds)
    values = " ".join(f"{constant}={value}" for constant, value in sorted(constants))
    return f"{name} {named} {given} {values}"


@cache
def carried(arch: str) -> Mapping[str, CarriedKernel]:
    """The carried kernels of `arch` by form, from the package or else the user's cache; none if of other sources."""
    for folder in (hip_objects.PACKAGED, cache_folder() / "hip"):
        path = folder / arch / FILE
        try:
            return read_objects(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            advice = f"run: updp-rt kernels build --arch {arch}"
            _log.warning("Triton's kernels in %s are not used: %s; %s", path, error, advice)
    return {}


def read_objects(path: Path) -> dict[str, CarriedKernel]:
    """The kernels in a file; ValueError where they are of other sources than today's."""
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read("manifest.json"))
        if manifest["sources"] != source_hash():
            raise ValueError("they were compiled from other sources than today's")
        kernels = (CarriedKernel(**row, code=file.read(f"{i}.hsaco")) for i, row in enumerate(manifest["kernels"]))
        return {kernel.form: kernel for kernel in kernels}


def recipe_of(path: Path) -> dict[str, str] | None:
    """What decided the kernels in a file; None where there is none, or it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            manifest = json.loads(file.read("manifest.json"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return {name: value for name, value in manifest.items() if name != "kernels"}


def write_objects(path: Path, recipe: dict[str, str], kernels: Sequence[CarriedKernel]) -> None:
    """Write kernels to a file; `recipe` has ``sources`` and what else decides what they are."""
    rows = [{name: value for name, value in asdict(kernel).items() if name != "code"} for kernel in kernels]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", json.dumps(recipe | {"kernels": rows}, indent=1))
        for i, kernel in enumerate(kernels):
            file.writestr(f"{i}.hsaco", kernel.code)


def source_hash() -> str:
    """sha256 over the names and contents of this package's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
