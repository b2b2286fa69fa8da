"""Fused kernels as what pruning times models on, so that a search goes by what will run."""

from __future__ import annotations

import json

import torch

from updp_rt.pruning.latency import Kernels
from updp_rt.runtime.device import environment
from updp_rt.runtime.lowering import accelerate


def _version(device: torch.device) -> str:
    return json.dumps(environment(device), sort_keys=True)


FUSED = Kernels("fused kernels", accelerate, _version)
