"""Where what was measured or compiled is kept from one process to the next."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$UPDP_RT_CACHE``, else ``updp_rt`` in the user's cache folder."""
    chosen = os.environ.get("UPDP_RT_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "updp_rt"
