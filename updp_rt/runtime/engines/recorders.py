"""What records a model's run into a graph: torch on a GPU, the stand-in for AMD's driver where an MI100 is emulated."""

from __future__ import annotations

import gc
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from updp_rt.kernels.architecture import architecture
from updp_rt.kernels.hip.device import EmulatedMI100, emulation
from updp_rt.runtime.inductor import call

_WARM = 2  # runs before a capture: libraries allocate and load at their first calls
_capture = threading.Lock()  # torch allows one capture at a time in a process
# MI100 owners report an abort, which nothing can catch, after 50 to 99 graphs captured in one process.
_MOST_ON_MI100 = 40
_captured = 0
_FRESH = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")


class CannotRecordError(Exception):
    """A run cannot become a graph; the message says why."""


class Recorder(ABC):
    """Records runs on one device. Their graphs share memory, so only one of them may run at a time."""

    @abstractmethod
    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """A replay of `run`, and its result, which each replay writes again.

        Raises:
            CannotRecordError: and why.
        """

    @abstractmethod
    def begin(self) -> None:
        """Before the input of a replay is written: have this thread's work wait for replays begun by others."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until no replay is under way."""


class GpuRecorder(Recorder):
    """``torch.cuda.graph``, on AMD's GPUs and NVIDIA's.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # one for all, else they would share no memory
        self._last: torch.cuda.Stream | None = None

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        global _captured  # noqa: PLW0603 - the limit is the process's
        with _capture, torch.cuda.device(self._device):
            if _captured >= _MOST_ON_MI100 and architecture(self._device) == "gfx908":
                raise CannotRecordError(
                    f"{_captured} graphs were captured in this process, and an MI100's driver has been seen to abort "
                    "after 50 to 99: serve from a new process"
                )
            _captured += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            graph = torch.cuda.CUDAGraph()
            # Within a stream of our own, since torch leaves its own current where a capture fails.
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM):
                    run()
                failed: list[Exception] = []
                how: dict[str, Any] = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
                try:
                    with _nothing_collected(), torch.cuda.graph(graph, **how):
                        result = _noting(run, failed)
                except Exception as error:  # of the run, if it failed: the capture's end then fails too
                    raise CannotRecordError(first_line((*failed, error)[0])) from error
            torch.cuda.current_stream().wait_stream(self._stream)
            return graph.replay, result

    def begin(self) -> None:
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)


class EmulatedRecorder(Recorder):
    """On the emulated MI100, where only what our launcher launches can be recorded.

    Args:
        device: the MI100.
    """

    def __init__(self, device: EmulatedMI100) -> None:
        self._device = device

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        device = self._device
        with _LaunchesOnly(device):
            run()
            with device.recorded() as graph:
                result = run()
        return lambda: device.replay(graph), result

    def begin(self) -> None:
        """Nothing: launches have ended when they return."""

    def wait(self) -> None:
        """Nothing, likewise."""


class _LaunchesOnly(TorchDispatchMode):
    """Refuses torch's own operators, other than views and fresh memory: they would run once, and in no replay."""

    def __init__(self, device: EmulatedMI100) -> None:
        super().__init__()
        self._device = device

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its whole compiler at the first call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        kwargs = kwargs or {}
        if space == "updp_rt":
            # What it is made of is looked at too, except when candidates are measured, which is no part of the run.
            with self if self._device.recording else nullcontext():
                return call(name)(*args, **kwargs)
        result = func(*args, **kwargs)
        if computes(func, (args, kwargs), result):
            raise CannotRecordError(
                f"it runs torch's {func._schema.name}, and an emulated MI100 records only this project's kernels"
            )
        return result


def computes(func: Any, arguments: Any, result: Any) -> bool:
    """Whether an operator of torch's did more than view its arguments or take fresh memory.

    Args:
        func: the overload that was called.
        arguments: all of them; `result`: what it gave. The schema does not tell: ``contiguous`` may copy or not.
    """
    if func._schema.is_mutable:
        return True
    given, made = ({_address(x) for x in tree_leaves(each) if isinstance(x, Tensor)} for each in (arguments, result))
    fresh = func._schema.name.rpartition("::")[2] in _FRESH
    return None in made or not (made <= given or fresh)


def _address(tensor: Tensor) -> int | None:
    """Of its memory, where it is not opaque."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else None


def lacks_recorder(device: torch.device) -> str | None:
    """Why nothing records runs on `device`; None: something does."""
    if device.type == "cuda" or (device.type == "cpu" and isinstance(emulation(), EmulatedMI100)):
        return None
    return f"graphs are captured on a GPU, and the input is on {device}: move model and input to one"


def recorder_for(device: torch.device) -> Recorder:
    """What records runs on `device`.

    Raises:
        CannotRecordError: nothing does.
    """
    reason = lacks_recorder(device)
    if reason is not None:
        raise CannotRecordError(reason)
    emulated = emulation()
    return EmulatedRecorder(emulated) if isinstance(emulated, EmulatedMI100) else GpuRecorder(device)


def first_line(error: Exception) -> str:
    """What `error` says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Within it, no garbage is collected: that may free a graph or its memory, which a capture forbids."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _noting(run: Callable[[], Any], failed: list[Exception]) -> Any:
    try:
        return run()
    except Exception as error:
        failed.append(error)
        raise
