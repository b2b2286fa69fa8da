"""recorder.cpp, compiled: drivers that record what the launcher asks of them, on machines without a GPU."""

import ctypes
import subprocess
from pathlib import Path

from tests.launcher.objects import code_object
from updp_rt._launcher import Driver, Kernel

SOURCE = Path(__file__).with_name("recorder.cpp")
ADDRESS = 0xFEDC_BA98_7654_3210  # of nothing; no part of it is another's


def compile_recorder(kind: str, target: Path) -> Path:
    """Compile the driver of `kind`, hip or cuda, to `target`."""
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", *(["-DCUDA"] if kind == "cuda" else [])]
    subprocess.run(["c++", *flags, str(SOURCE), "-o", str(target)], check=True)
    return target


class Recorder:
    """One recording driver of its own, opened; `library` is its file, `calls` and the rest ask what it recorded."""

    def __init__(self, kind: str, library: Path) -> None:
        self.kind, self.library = kind, compile_recorder(kind, library)
        self._own = ctypes.CDLL(str(library))
        self._own.recorder_word.restype = ctypes.c_uint64
        self._own.recorder_calls.restype = ctypes.c_char_p
        self._own.recorder_stream.restype = ctypes.c_void_p
        self._own.recorder_shape.restype = ctypes.c_uint
        self.driver = Driver(kind, str(library))

    def kernel(self, name: str) -> Kernel:
        """A kernel of kernels.hip; of CUDA, always one that takes two words of 8 bytes and two of 4."""
        code, arch = (code_object(), "gfx908") if self.kind == "hip" else (b"cubin", "sm_90")
        kernel = self.driver.load(code, arch).kernel(name)
        self._own.recorder_expect(len(kernel.arguments))
        self.calls()
        return kernel

    def calls(self) -> list[str]:
        """The driver's calls since this was asked last."""
        return self._own.recorder_calls().decode().split()

    def word(self, index: int, size: int) -> bytes:
        """The bytes of an argument of the last launch."""
        return self._own.recorder_word(index).to_bytes(8, "little")[:size]

    def shape(self) -> tuple[int, ...]:
        """Of the last launch: grid, block, dynamic LDS."""
        return tuple(self._own.recorder_shape(i) for i in range(7))

    @property
    def stream(self) -> int:
        """Of the last launch."""
        return self._own.recorder_stream() or 0

    @property
    def launches(self) -> int:
        return self._own.recorder_launches()

    @property
    def modules(self) -> int:
        """That are loaded now."""
        return self._own.recorder_modules()

    def refuse(self, status: int) -> None:
        """Let launches fail with this status from now on."""
        self._own.recorder_refuse(status)

    def shut(self, shut: bool) -> None:
        """Keep launches waiting, or let them go on."""
        self._own.recorder_gate(shut)
