"""Backends: ways to run the fused operators, each saying what it can run and why not.

To add one, write a `Backend` and put it into `BACKENDS`.
"""

from __future__ import annotations

from updp_rt.backends.base import Backend, Prepared
from updp_rt.backends.hip import HipBackend
from updp_rt.backends.onednn import OneDnnBackend
from updp_rt.backends.reference import ReferenceBackend
from updp_rt.backends.triton import TritonBackend
from updp_rt.backends.vendor import VendorBackend

# In the order tried where nothing has been measured, the surest last.
BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (OneDnnBackend(), TritonBackend(), HipBackend(), VendorBackend(), ReferenceBackend())
}

__all__ = ["BACKENDS", "Backend", "Prepared"]
