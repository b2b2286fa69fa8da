"""Processes of a test's own, which start in no time: forked from one that has imported what takes long."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

# Not the test's own process, which may hold threads and, for a test's length, patched modules.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["updp_rt", "timm", "updp_rt.pruning", "updp_rt.cli"])


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """`function`, of a module's own level, on arguments that can be pickled, in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 300) -> None:
    """Wait for `process` to end as it should."""
    process.join(seconds)
    assert process.exitcode == 0
