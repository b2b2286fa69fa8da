"""Launches on an emulated MI100 recorded by the stand-in for AMD's driver: what a HIP graph is on a real one."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, UntypedStorage

_THREAD_LOCAL = 1  # hipStreamCaptureModeThreadLocal: other threads may use the device meanwhile


class EmulatedGraph:
    """One recording. It keeps the memory that its launches reach, which on a GPU is a pool's.

    Args:
        standin: the library of the stand-in.

    Attributes:
        stream: handle of the stream under capture, while it is.
    """

    def __init__(self, standin: Any) -> None:
        self._standin = standin
        self._storages: dict[int, UntypedStorage] = {}
        self._graph: ctypes.c_void_p | None = None
        self.stream = 0

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Within it, what is launched on `stream` is recorded.

        Raises:
            RuntimeError: a call was made that a capture forbids.
        """
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._standin.hipStreamCreate(ctypes.byref(stream)))
        try:
            self._check(self._standin.hipStreamBeginCapture(stream, _THREAD_LOCAL))
            self.stream = stream.value or 0
            try:
                yield
            finally:
                self.stream = 0
                ended = self._standin.hipStreamEndCapture(stream, ctypes.byref(graph))
            self._check(ended)
            self._graph = ctypes.c_void_p()
            size = ctypes.c_size_t(0)
            self._check(self._standin.hipGraphInstantiate(ctypes.byref(self._graph), graph, None, None, size))
        finally:
            if graph.value:
                self._check(self._standin.hipGraphDestroy(graph))
            self._check(self._standin.hipStreamDestroy(stream))

    def keep(self, arguments: Sequence[Any]) -> None:
        """Keep the storages of a launch's tensors."""
        for argument in arguments:
            if isinstance(argument, Tensor):
                storage = argument.untyped_storage()
                self._storages[storage.data_ptr()] = storage

    @property
    def storages(self) -> list[UntypedStorage]:
        """All memory that its launches may touch."""
        return list(self._storages.values())

    def launch(self) -> None:
        """Run all launches; their memory must be reachable to the device."""
        self._check(self._standin.hipGraphLaunch(self._graph, None))

    def __del__(self) -> None:
        if self._graph is not None:
            self._standin.hipGraphExecDestroy(self._graph)

    def _check(self, status: int) -> None:
        if status:
            text = self._standin.hipGetErrorString
            text.restype = ctypes.c_char_p
            raise RuntimeError(f"{text(status).decode()} (HIP error {status})")
