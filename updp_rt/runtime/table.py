"""Tuned tables: what was measured for which problem, as JSON, valid for one device, its libraries and these kernels."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from updp_rt._cache import cache_folder
from updp_rt.artifacts.atomic import write_json
from updp_rt.runtime.device import device_name, environment

SCHEMA = 2
SHARED = "UPDP_RT_TABLE"  # in the environment: a file that `updp-rt tune` wrote

_log = logging.getLogger("updp_rt")


@dataclass
class Entry:
    """What is known of one problem's candidates, by name ``backend`` or ``backend:config``.

    Attributes:
        times_ms: milliseconds of each candidate measured: medians.
        failed: why a candidate cannot be used: it failed to run where torch's own operators did. That one disagreed
            with the reference is not kept, since it depends on the values it met.
    """

    times_ms: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Table:
    """Entries by problem, kept in one file for one environment.

    Args:
        environment: what the measurements depend on; a file of another environment is never read.
        path: the file; it need not exist. A damaged one is set aside with a warning, since it can be measured again.
        shared: one that was made elsewhere (`export`), and is only read. Of two entries for a problem that counts in
            which more was measured.
    """

    def __init__(self, environment: dict[str, str], path: Path, shared: Path | None = None) -> None:
        self.environment = environment
        self.path = path
        self.entries = self._read(path)
        if shared is not None:
            for key, entry in self._read(shared, foreign=True).items():
                own = self.entries.get(key)
                if own is None or len(own.times_ms) < len(entry.times_ms):
                    self.entries[key] = entry
        self._learned: dict[str, Entry] = {}

    def keep(self, key: str, entry: Entry) -> None:
        """Hold `entry` for the problem `key`; `save` writes it."""
        self.entries[key] = self._learned[key] = entry

    def save(self) -> None:
        """Write what was learned, keeping what other processes wrote meanwhile. A read-only cache is only warned of."""
        learned, self._learned = self._learned, {}  # another thread may learn more meanwhile
        if not learned:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(self.path, self._read(self.path) | learned)
        except OSError as error:
            self._learned = learned | self._learned
            _log.warning("the tuned table could not be kept, so it will be measured again: %s", error)

    def export(self, path: Path, keys: Collection[str]) -> None:
        """Write what is known of the problems `keys` to a file that others read as `shared`, or add it to one.

        Raises:
            ValueError: the file is there and is not a table of this environment.
            OSError: it cannot be written.
        """
        before = self._read(path)
        if path.exists() and not before:
            raise ValueError(f"{path}: there, and no tuned table of this device and versions; write to another file")
        self._write(path, before | {key: entry for key, entry in self.entries.items() if key in keys})

    def _write(self, path: Path, entries: dict[str, Entry]) -> None:
        data = {
            "schema": SCHEMA,
            "environment": self.environment,
            "entries": {
                key: {"times_ms": dict(entry.times_ms), "failed": dict(entry.failed)}
                for key, entry in sorted(entries.items())
            },
        }
        write_json(path, data)

    def _read(self, path: Path, foreign: bool = False) -> dict[str, Entry]:
        """The entries in a file; that a `foreign` one is not there or of no use is warned of."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA or data["environment"] != self.environment:
                if foreign:
                    _log.warning("%s", _unfit(path, data, self.environment))
                return {}
            return {key: _entry(value) for key, value in data["entries"].items()}
        except FileNotFoundError:
            if foreign:
                _log.warning("$%s names %s, which is not there: its shapes are measured here", SHARED, path)
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("the tuned table %s is damaged and left aside (%s); it is measured again", path, error)
            return {}


def table_for(device: torch.device) -> Table:
    """The table of this device as things stand; one object a process and device."""
    return _table(device, device_name(device))


def forget_tables() -> None:
    """Read the files again when next asked, as a new process would."""
    _table.cache_clear()


@cache
def _table(device: torch.device, name: str) -> Table:
    found = environment(device)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]
    shared = os.environ.get(SHARED)
    path = cache_folder() / "tuned" / f"{found['device']}-{digest}.json"
    return Table(found, path, Path(shared) if shared else None)


def _unfit(path: Path, data: dict[str, Any], environment: dict[str, str]) -> str:
    found = {"schema": str(data["schema"])} | data["environment"]
    wanted = {"schema": str(SCHEMA)} | environment
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    differs = ", ".join(f"{name} {found.get(name)} instead of {wanted.get(name)}" for name in names)
    return f"the tuned table {path} is of another environment ({differs}) and is not used: updp-rt tune makes another"


def _entry(value: dict[str, Any]) -> Entry:
    times = {str(name): float(ms) for name, ms in value["times_ms"].items()}
    if not all(0 < ms < math.inf for ms in times.values()):
        raise ValueError("a time is no positive number")
    return Entry(times, {str(name): str(reason) for name, reason in value["failed"].items()})
