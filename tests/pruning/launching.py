"""Processes that train together, started as torchrun starts them: on the CPU, over gloo."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.processes import finish, start

COUNT = 2


def be_rank(rank: int, port: int) -> None:
    """What torchrun tells a process."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(COUNT), "LOCAL_WORLD_SIZE": str(COUNT)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port: int = listener.getsockname()[1]
        return port


def in_two_processes(function: Callable[[], Any], folder: Path) -> list[Any]:
    """What `function`, of a module's own level, returns in each of two processes that are ready to train together."""
    folder.mkdir(parents=True, exist_ok=True)
    port, files = free_port(), [folder / f"{rank}.pt" for rank in range(COUNT)]
    for process in [start(_call, function, rank, port, file) for rank, file in enumerate(files)]:
        finish(process)
    return [torch.load(file, weights_only=False) for file in files]


def _call(function: Callable[[], Any], rank: int, port: int, file: Path) -> None:
    from updp_rt.pruning.trainer import make_accelerator

    be_rank(rank, port)
    make_accelerator()
    torch.save(function(), file)
