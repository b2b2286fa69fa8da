"""The compiled kernels there are: where they lie, and whether they are whole and of today's sources.

``<folder>/<arch>/`` holds ``<operator>.hsaco`` (``.cubin`` for NVIDIA) and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from updp_rt._cache import cache_folder

from .compilers import check_arch
from .manifest import SOURCES, HipKernel, Manifest, MissingObjectsError, read_manifest, source_hash

if TYPE_CHECKING:
    import torch

PACKAGED: Final = SOURCES / "objects"


@dataclass(frozen=True)
class Objects:
    """Compiled kernels of one architecture.

    Attributes:
        folder: where they lie.
        manifest: what they are.
        codes: each operator's code object.
    """

    folder: Path
    manifest: Manifest
    codes: dict[str, bytes]

    def code(self, operator: str) -> bytes:
        """The code object of `operator`; `MissingObjectsError` where it was not compiled."""
        if operator not in self.codes:
            raise MissingObjectsError(f"{self.folder} holds no {operator}, but {', '.join(self.codes)}")
        return self.codes[operator]

    @property
    def arch(self) -> str:
        return self.manifest.recipe.arch

    def kernels(self, operator: str, dtype: torch.dtype, aligned: bool) -> tuple[HipKernel, ...]:
        """The kernels of `operator` for `dtype`, from small tiles to large.

        Args:
            aligned: those for sizes and addresses that vectors of 16 bytes fit, or else those for any.
        """
        name = str(dtype).removeprefix("torch.")
        wanted = (k for k in self.manifest.kernels if (k.operator, k.dtype, k.aligned) == (operator, name, aligned))
        return tuple(sorted(wanted, key=lambda kernel: (kernel.block[0] * kernel.block[1], kernel.block)))


@cache
def load(arch: str) -> Objects:
    """The compiled kernels of `arch`, from the package or else the user's cache; read once a process.

    Raises:
        CompilerError: `arch` is unknown.
        MissingObjectsError: there are none, none of today's sources, or they are damaged.
    """
    check_arch(arch)
    reasons = []
    for folder in (PACKAGED / arch, cache_folder() / "hip" / arch):
        try:
            return read_objects(folder)
        except MissingObjectsError as error:
            reasons.append(str(error))
    raise MissingObjectsError(f"{'; '.join(reasons)}; run: updp-rt kernels build --arch {arch}")


def read_objects(folder: Path) -> Objects:
    """The compiled kernels in `folder`; `MissingObjectsError` unless they are whole and of today's sources."""
    manifest = read_manifest(folder)
    if manifest.recipe.sources != source_hash():
        raise MissingObjectsError(f"the kernels in {folder} were compiled from other sources than today's")
    codes = {}
    for name, digest in manifest.objects.items():
        path = folder / Path(name).name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise MissingObjectsError(f"{path} is damaged: it is not what its manifest records")
        codes[path.stem] = content
    return Objects(folder, manifest, codes)


def default_folder() -> Path:
    """Where objects are put unless told otherwise: within the package if it can be written, else the user's cache."""
    return PACKAGED if os.access(PACKAGED.parent, os.W_OK) else cache_folder() / "hip"
