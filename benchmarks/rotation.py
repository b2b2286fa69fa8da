"""Inputs that come from memory, as they do within a model: more of them than the caches hold, one after the other."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_UNKNOWN_CACHE = 32 << 20
_MOST_VIEWS = 1 << 16  # of tiny inputs: far more than are used while the caches still hold the first
_ALIGNED = 64  # bytes, as allocators give them
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

_pools: dict[tuple[torch.dtype, torch.device], Tensor] = {}


def rotated(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, most: int = _MOST_VIEWS) -> list[Tensor]:
    """Random tensors of one shape, images in channels_last, together at least twice the device's largest cache.

    They are parts of one pool, at different addresses. Only where `most` of them are less than that, they are fewer.
    """
    numel, unit = math.prod(shape), _ALIGNED // dtype.itemsize
    spaced = -(-numel // unit) * unit
    wanted = -(-2 * cache_bytes(device) // (spaced * dtype.itemsize))
    count = max(2, min(most, wanted))
    pool = _pool(count * spaced, dtype, device)
    parts = pool[: count * spaced].view(count, spaced)[:, :numel]
    if len(shape) == 4:
        n, c, h, w = shape
        parts = parts.unflatten(1, (n, h, w, c)).permute(0, 1, 4, 2, 3)
    else:
        parts = parts.unflatten(1, shape)
    return list(parts.unbind(0))


@cache
def cache_bytes(device: torch.device) -> int:
    """Size of the last cache before memory; of a processor's no more than an eighth of its memory is believed."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found = {
        int((index / "level").read_text()): int((index / "size").read_text().strip().removesuffix("K")) << 10
        for index in _CACHES.glob("index*")
        if (index / "size").exists()
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(found[max(found)] if found else _UNKNOWN_CACHE, memory // 8)


def _pool(numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    key = dtype, device
    if key not in _pools or _pools[key].numel() < numel:
        _pools.clear()  # one pool at a time: they are as large as two caches
        drawn = torch.randn(min(numel, 1 << 20), device=device).to(dtype)
        _pools[key] = drawn.repeat(-(-numel // len(drawn)))
    return _pools[key]
