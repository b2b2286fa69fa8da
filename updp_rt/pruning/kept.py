"""Latency tables that are kept from one run to the next: a model's on a device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from updp_rt._cache import cache_folder
from updp_rt.artifacts.atomic import write_text
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.progress import Progress


def kept_table(what: dict[str, Any], measure: Callable[[], LatencyTable], progress: Progress) -> LatencyTable:
    """The table of `what`, as an earlier run measured it or as `measure` does now.

    Args:
        what: all that times depend on, as JSON has it.
    """
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "latency" / f"{key}.json"
    try:
        found = LatencyTable.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # not there, or not whole
        found = measure()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, found.model_dump_json(indent=2) + "\n")
        except OSError as error:
            progress.log(f"latencies are not kept for other runs: {error}")
    else:
        progress.log(f"latencies: as an earlier run measured them here; delete {path} to measure again")
    return found
