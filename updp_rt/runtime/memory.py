"""Memory of the process: freed memory kept for the next tensor, since page faults can cost as much as arithmetic."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import time
from functools import cache
from pathlib import Path

_log = logging.getLogger("updp_rt")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_FROM_HEAP = 32 << 20  # the most that glibc allows
_KEPT = 512 << 20


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep up to 512 MB of freed memory instead of returning it to the system after every layer.

    It concerns the whole process and every model in it, fused or not, so a comparison stays fair. With
    ``UPDP_RT_MALLOC=system`` in the environment, or another allocator than glibc's, nothing is changed.

    Returns:
        Whether it is in force.
    """
    if os.environ.get("UPDP_RT_MALLOC") == "system" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    _log.info("freed memory up to %d MB is %s", _KEPT >> 20, "kept for reuse" if done else "returned to the system")
    return done


def resident_bytes() -> int:
    """Bytes of memory that the process holds now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


class Growth:
    """What the process has taken since this was made."""

    def __init__(self) -> None:
        self._begun, self._before = time.perf_counter(), resident_bytes()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def bytes(self) -> int:
        """Of memory; none where it has given some back."""
        return max(0, resident_bytes() - self._before)
