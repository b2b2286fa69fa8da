"""A folder of results and the one process that may write it: locked, and held to what it was begun as."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from updp_rt.artifacts.atomic import remove_leftovers

LOCK = "run.lock"
_OURS = (LOCK, "log.txt")


class RunError(ValueError):
    """A folder that is in use or holds something else, lacks an earlier stage's result, or is damaged."""


class InUseError(RunError):
    """A folder that another process is writing."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` alone; raises `InUseError` at once if another process has it, whose death frees it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            remove_leftovers(folder)
            yield
    except Timeout:
        raise InUseError(f"{folder}: another process is writing it; wait for it, or choose another folder") from None


def is_begun(folder: Path, identity: str) -> bool:
    """Whether `folder` holds the file `identity`; raises `RunError` if it holds other things instead."""
    if (folder / identity).exists():
        return True
    if folder.exists() and any(path.name not in _OURS for path in folder.iterdir()):
        raise RunError(f"{folder}: not empty, and not a run of updp_rt; choose another folder")
    return False


def read_identity(path: Path, keys: set[str]) -> dict[str, Any]:
    """What a folder says it is; raises `RunError` if that is missing or lacks one of `keys`."""
    if not path.exists():
        raise RunError(f"{path.parent}: not the folder of a pruning run (it has no {path.name})")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: not the folder of a pruning run ({error})") from error
    if not isinstance(found, dict) or not keys <= found.keys():
        raise RunError(f"{path}: not the folder of a pruning run")
    return found


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """What two identities disagree on, settings by their own names, with both values in words."""
    here, there = _flatten(ours), _flatten(theirs)
    keys = [*here, *(key for key in there if key not in here)]
    return {
        key: f"{key}: {here.get(key)!r} now, {there.get(key)!r} there"
        for key in keys
        if here.get(key) != there.get(key)
    }


def with_defaults(kind: type[BaseModel], settings: Any) -> dict[str, Any]:
    """Stored settings of a `kind`; one that was not there yet when they were stored has its default."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    return {**defaults, **(settings if isinstance(settings, Mapping) else {})}


def _flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: item for key, item in value.items() if key != "config"}
    config = value.get("config", {})
    return flat | (dict(config) if isinstance(config, Mapping) else {})
