"""Files that are either wholly written or not there."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


class WriteError(OSError):
    """A file that could not be written: which one, and why. What was there before is still there."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it at the end; on any error `path` stays as it was.

    Raises:
        WriteError: the file could not be written, as on a full disk.
    """
    # Threads share a process's number, and containers that share a folder may.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _why_unwritten(error, temporary, path)
        if reason is None:
            raise
        raise WriteError(f"{path} cannot be written: {reason}. Nothing was changed") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _why_unwritten(error: Exception, temporary: Path, path: Path) -> str | None:
    """Why `path` could not be written, judging by the error raised; None if the error is about something else."""
    if isinstance(error, OSError):
        ours = error.filename is None or Path(os.fsdecode(error.filename)) in (temporary, path, *path.parents)
        return error.strerror if ours else None
    # safetensors and torch.save report a failed write in their own words.
    if found := re.search(r"os error (\d+)", str(error)):
        return os.strerror(int(found[1]))
    return "the write failed, as on a full disk" if "inline_container" in str(error) else None


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in `folder` while writing."""
    for path in folder.glob(".*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdigit() and not is_alive(int(process)):
            path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(path: Path) -> None:
    """Have what was written to a file, or a folder's list of files, lie on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
