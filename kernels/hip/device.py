"""Where HIP kernels run: the GPU that torch sees, or an emulated MI100 on a machine without one."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from ..architecture import architecture
from .emulated_graph import EmulatedGraph
from .manifest import HipKernel
from .objects import Objects, load

_emulated: Device | None = None


class Device:
    """A device of one architecture, with its modules loaded once.

    Args:
        arch: such as ``gfx908`` or ``sm_90``.
        kind: of its driver, ``hip`` or ``cuda``.
        library: the driver's file, where it is not the installed one.
    """

    def __init__(self, arch: str, kind: str, library: str | None = None) -> None:
        self.arch = arch
        self._kind, self._library = kind, library
        self._modules: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}
        self._others: dict[str, tuple[Any, int]] = {}

    @property
    def objects(self) -> Objects:
        """The code objects built for this device's architecture; `MissingObjectsError` where there are none."""
        return load(self.arch)

    @property
    def wave_lanes(self) -> int:
        """Lanes of a wave."""
        return 64 if self.arch.startswith("gfx") else 32

    @property
    def driver(self) -> Any:
        """The launcher's driver of this device."""
        return _driver(self._kind, self._library)

    def launch(
        self, kernel: HipKernel, grid: int, arguments: Sequence[Tensor | float | None], stream: int | None = None
    ) -> None:
        """Queue a kernel.

        Args:
            kernel: of `objects`.
            grid: workgroups.
            arguments: in the kernel's order; tensors on this device, None for the null pointer.
            stream: the driver's handle; None: the one that belongs to the device.

        Raises:
            RuntimeError: the driver refused; its words are in the message.
            ValueError: another device than this one is current.
        """
        self.queue(self.loaded(kernel), kernel.waves, grid, arguments, stream)

    def queue(
        self,
        handle: Any,
        waves: int,
        grid: int,
        arguments: Sequence[Tensor | float | None],
        stream: int | None = None,
        lds: int = 0,
    ) -> None:
        """As `launch`, for any kernel by the launcher's handle; `lds` are dynamic bytes."""
        lanes = waves * self.wave_lanes
        values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        handle.launch((grid, 1, 1), (lanes, 1, 1), lds, self._stream(stream), values)

    @property
    def recording(self) -> bool:
        """Whether what this thread launches now becomes part of a graph instead of running."""
        return False

    def _stream(self, stream: int | None) -> int:
        return stream or 0

    def loaded(self, kernel: HipKernel) -> Any:
        """The launcher's handle of `kernel`. Its module is loaded at first use, so prepare before capturing a graph."""
        if kernel.name not in self._kernels:
            if kernel.operator not in self._modules:
                self._modules[kernel.operator] = self.driver.load(self.objects.code(kernel.operator), self.arch)
            self._kernels[kernel.name] = self._modules[kernel.operator].kernel(kernel.name)
        return self._kernels[kernel.name]

    def loaded_code(self, key: str, code: bytes, name: str) -> tuple[Any, int]:
        """The handle of a kernel called `name` in any code object, known by `key`, and how many arguments it takes."""
        if key not in self._others:
            handle = self.driver.load(code, self.arch).kernel(name)
            self._others[key] = handle, len(handle.arguments)
        return self._others[key]


class Gpu(Device):
    """A GPU of torch's, by torch's number; kernels are queued on its current stream."""

    def __init__(self, index: int) -> None:
        super().__init__(architecture(torch.device("cuda", index)), "hip" if torch.version.hip else "cuda")
        self.index = index

    def _stream(self, stream: int | None) -> int:
        if torch.cuda.current_device() != self.index:
            raise ValueError(f"the current device must be that of the tensors: use torch.cuda.device({self.index})")
        return torch.cuda.current_stream(self.index).cuda_stream if stream is None else stream


class EmulatedMI100(Device):
    """gfx908 by the emulator, behind a stand-in for AMD's driver: tensors lie in the host's memory.

    Args:
        backward: run a workgroup's waves from the last to the first, and workgroups in random order; what then differs
            lacks a barrier.
    """

    def __init__(self, *, backward: bool = False) -> None:
        from updp_rt import emulator

        library = str(Path(emulator.__file__).with_name("libamdhip64_standin.so"))
        super().__init__("gfx908", "hip", library)
        self._standin = ctypes.CDLL(library)
        self._order = (2, 1) if backward else (0, 0)
        self._recording = _Recording()

    def queue(
        self,
        handle: Any,
        waves: int,
        grid: int,
        arguments: Sequence[Tensor | float | None],
        stream: int | None = None,
        lds: int = 0,
    ) -> None:
        """As on a GPU, but at once. The kernel may touch the storages of `arguments`, and nothing else."""
        graph = self._recording.graph
        if graph is not None:
            graph.keep(arguments)
            super().queue(handle, waves, grid, arguments, graph.stream, lds)
            return
        with self._reaching(a.untyped_storage() for a in arguments if isinstance(a, Tensor)):
            super().queue(handle, waves, grid, arguments, stream, lds)

    @property
    def recording(self) -> bool:
        return self._recording.graph is not None

    @contextmanager
    def recorded(self) -> Iterator[EmulatedGraph]:
        """Within it, what this thread launches is recorded instead of run; torch's own operators are not, and run."""
        graph = EmulatedGraph(self._standin)
        with graph.recorded():
            self._recording.graph = graph
            try:
                yield graph
            finally:
                self._recording.graph = None

    def replay(self, graph: EmulatedGraph) -> None:
        """Run the launches of a graph on the memory that they were recorded with."""
        with self._reaching(graph.storages):
            graph.launch()

    @contextmanager
    def _reaching(self, storages: Iterable[UntypedStorage]) -> Iterator[None]:
        """Within it, kernels may touch these storages, and run in this device's order."""
        self._standin.standin_set_options(*self._order, ctypes.c_uint64(0), ctypes.c_uint(1))
        ranges = {(storage.data_ptr(), storage.nbytes()) for storage in storages if storage.nbytes()}
        with ExitStack() as stack:
            for address, size in ranges:
                self.driver.register(address, size)
                stack.callback(self.driver.unregister, address)
            yield


class _Recording(threading.local):
    """What records the launches of a thread."""

    graph: EmulatedGraph | None = None


@contextmanager
def emulated_mi100(device: Device | None = None) -> Iterator[Device]:
    """Within it, HIP kernels take CPU tensors and run on an emulated MI100 (gfx908). For tests: it is slow.

    Args:
        device: what launches; by default the stand-in for AMD's driver, which runs a launch at once and to its end.
    """
    global _emulated  # noqa: PLW0603 - which machine this process pretends to have is one fact
    before, _emulated = _emulated, device or EmulatedMI100()
    try:
        yield _emulated
    finally:
        _emulated = before


def emulation() -> Device | None:
    """What stands in for a GPU at the moment, if anything does."""
    return _emulated


def device_of(device: torch.device) -> Device:
    """Where kernels for tensors on `device` run.

    Raises:
        ValueError: nowhere: it is a CPU, and no MI100 is emulated.
    """
    if device.type == "cuda":
        return _gpu(torch.cuda.current_device() if device.index is None else device.index, os.getpid())
    if _emulated is not None:
        return _emulated
    raise ValueError(f"HIP kernels do not run on {device}")


@cache
def _driver(kind: Any, library: str | None) -> Any:
    try:
        from updp_rt import _launcher
    except ImportError as error:
        raise ImportError(f"the launcher of code objects is not built ({error}): pip install -e . builds it") from error
    return _launcher.Driver(kind, library)


@cache
def _gpu(index: int, process: int) -> Gpu:
    # Modules belong to the process that loaded them: a child of fork() loads its own, or is told that it cannot.
    return Gpu(index)
