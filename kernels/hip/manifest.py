"""The record beside compiled kernels: what they were compiled from and with, and what each one takes of the GPU."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from .figures import Figures

SOURCES: Final = Path(__file__).parent
FILE: Final = "manifest.json"
SCHEMA: Final = 1

_NAME = re.compile(
    r"(?P<operator>[a-z0-9]+(_[a-z0-9]+)*?)_(?P<dtype>float32|float16|bfloat16)_"
    r"(?P<tile>(?P<block>\d+(x\d+)+)w(?P<waves>\d+))(?P<any>_any)?"
)


class MissingObjectsError(OSError):
    """Compiled kernels are absent, damaged, or not of today's sources; says which, and what to run."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HipKernel(_Record):
    """One kernel of a code object.

    Attributes:
        name: its symbol, such as ``linear_float16_128x64x32w4_any``.
        operator, dtype: ``linear``, ``float16``.
        tile: the part of the name between dtype and ``_any``: ``128x64x32w4``.
        block: the tile's sizes, rows and columns first: ``(128, 64, 32)``.
        waves: of a workgroup, 64 lanes each on gfx, 32 on sm.
        aligned: takes only sizes and addresses that vectors of 16 bytes fit; others take any.
    """

    name: str
    operator: str
    dtype: str
    tile: str
    block: tuple[int, ...]
    waves: int
    aligned: bool
    figures: Figures

    @classmethod
    def parse(cls, name: str, figures: Figures) -> HipKernel:
        """The kernel called `name`; ValueError for a name that is not ``operator_dtype_MxNxKwWAVES[_any]``."""
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"kernel {name!r} is not named operator_dtype_MxNxKwWAVES[_any]")
        return cls(
            name=name,
            operator=found["operator"],
            dtype=found["dtype"],
            tile=found["tile"],
            block=tuple(int(size) for size in found["block"].split("x")),
            waves=int(found["waves"]),
            aligned=not found["any"],
            figures=figures,
        )


class Recipe(_Record):
    """All that decides what compiled kernels are: equal recipes give equal code."""

    schema_version: int = SCHEMA
    arch: str
    sources: str
    compiler: str
    flags: tuple[str, ...]


class Manifest(_Record):
    """What a folder of code objects holds.

    Attributes:
        objects: sha256 of each file, by its name, ``linear.hsaco``.
        kernels: of all files, in the order of their names.
    """

    recipe: Recipe
    objects: dict[str, str]
    kernels: tuple[HipKernel, ...]


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; `MissingObjectsError` where there is none or it is not one of this version."""
    path = folder / FILE
    if not path.is_file():
        raise MissingObjectsError(f"{folder} holds no compiled kernels")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise MissingObjectsError(f"{path} is damaged or of another version: {error.errors()[0]['msg']}") from error
    if manifest.recipe.schema_version != SCHEMA:
        raise MissingObjectsError(f"{path} is of version {manifest.recipe.schema_version}; this updp_rt reads {SCHEMA}")
    return manifest


def source_hash() -> str:
    """sha256 over the names and contents of today's device code, ``*.hip`` and ``*.h``."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.hip"), *SOURCES.glob("*.h")]):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
