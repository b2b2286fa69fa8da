"""Launches code objects on AMD and NVIDIA GPUs, through libamdhip64 or libcuda opened at run time.

Built from csrc/launcher. Every call may be made from any thread; none holds the GIL while the driver works.
"""

from typing import Any, Literal

from typing_extensions import Buffer

class CodeObjectError(ValueError):
    """The code is no sound code object for the architecture asked for; or it has no such kernel."""

class DriverError(RuntimeError):
    """The driver is missing, refused a call (its text is in the message), or was opened before a fork()."""

class Driver:
    """A GPU driver. Devices, streams and contexts are the calling thread's, as whoever set them left them."""

    def __init__(self, kind: Literal["hip", "cuda"], library: str | None = None) -> None:
        """Open the driver: the library at this path; by default the one this process has loaded, else the system's."""

    def load(self, code: bytes, arch: str) -> Module:
        """Load `code` for ``gfx908``, ``sm_90`` and the like on the calling thread's current device.

        HIP takes an ELF code object or a clang offload bundle, checked here before the driver sees it; CUDA a cubin.
        """

    def malloc(self, bytes: int) -> int:
        """The address of so many fresh bytes on the device."""

    def free(self, address: int) -> None:
        """Free what `malloc` gave."""

    def copy_to_device(self, destination: int, source: Buffer) -> None:
        """Copy a contiguous buffer to the device, and wait for it."""

    def copy_to_host(self, destination: Buffer, source: int) -> None:
        """Fill a writable, contiguous buffer from the device."""

    def register(self, address: int, bytes: int) -> None:
        """Let kernels reach so many bytes of the host's memory."""

    def unregister(self, address: int) -> None:
        """Undo `register`."""

    def synchronize(self) -> None:
        """Wait for everything on the current device."""

class Module:
    """Code on a device; unloaded when it and all its kernels are gone, but not in a forked child or at exit."""

    @property
    def arch(self) -> str: ...
    def kernel(self, name: str) -> Kernel:
        """The kernel of that name; CodeObjectError or DriverError where there is none."""

class Kernel:
    """A kernel; it keeps its module and driver alive."""

    @property
    def name(self) -> str: ...
    @property
    def lds(self) -> int:
        """Static bytes of LDS (shared memory) a workgroup."""

    @property
    def max_workgroup_size(self) -> int:
        """Lanes (threads)."""

    @property
    def arguments(self) -> list[tuple[str, Literal["address", "value", "unknown"], int]]:
        """Name (empty where the compiler left it out), kind and bytes of each; CUDA's of 8 bytes are ``unknown``."""

    def launch(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        dynamic_lds: int,
        stream: int,
        arguments: tuple[Any, ...] | list[Any],
    ) -> None:
        """Put the kernel on a stream; neither waits nor allocates, so a graph may capture it.

        Args:
            grid: workgroups along x, y, z.
            block: lanes of a workgroup along x, y, z.
            dynamic_lds: bytes of LDS on top of the kernel's static ones.
            stream: its handle; 0 is the default stream.
            arguments: one for each of the kernel's. An address is an int, or None for null; a value is an int (signed
                or unsigned), a float (of 4 or 8 bytes) or bytes of just its size.

        Raises:
            TypeError, OverflowError, ValueError: an argument, or the shape, is not one the kernel takes.
            DriverError: the driver refused.
        """

def describe(code: bytes, arch: str = "") -> dict[str, Any]:
    """What a code object says of itself: arch, kernels (each with name, arguments, registers, ...), image_bytes, text
    (address, bytes), relocations (address, addend)."""
