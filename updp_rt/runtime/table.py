"""Tuned tables: what was measured for which problem, as JSON, valid for one device, its libraries and these kernels."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from updp_rt._cache import cache_folder
from updp_rt.artifacts.atomic import write_json
from updp_rt.runtime.device import device_name, environment

SCHEMA = 2

_log = logging.getLogger("updp_rt")


@dataclass
class Entry:
    """What is known of one problem's candidates, by name ``backend`` or ``backend:config``.

    Attributes:
        times_ms: median milliseconds of each candidate measured.
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
    """

    def __init__(self, environment: dict[str, str], path: Path) -> None:
        self.environment = environment
        self.path = path
        self.entries = self._read(path)
        self._changed = False

    def keep(self, key: str, entry: Entry) -> None:
        """Hold `entry` for the problem `key`; `save` writes it."""
        self.entries[key] = entry
        self._changed = True

    def save(self) -> None:
        """Write what was learned, keeping what other processes wrote meanwhile. A read-only cache is only warned of."""
        if not self._changed:
            return
        entries = self._read(self.path) | self.entries
        data = {
            "schema": SCHEMA,
            "environment": self.environment,
            "entries": {
                key: {"times_ms": entry.times_ms, "failed": entry.failed} for key, entry in sorted(entries.items())
            },
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, data)
        except OSError as error:
            _log.warning("the tuned table could not be kept, so it will be measured again: %s", error)
            return
        self._changed = False

    def _read(self, path: Path) -> dict[str, Entry]:
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA or data["environment"] != self.environment:
                return {}
            return {key: _entry(value) for key, value in data["entries"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    return Table(found, cache_folder() / "tuned" / f"{found['device']}-{digest}.json")


def _entry(value: dict[str, Any]) -> Entry:
    times = {str(name): float(ms) for name, ms in value["times_ms"].items()}
    return Entry(times, {str(name): str(reason) for name, reason in value["failed"].items()})
