"""Compilers of device code: which of those installed serves an architecture, and how it is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Code object version 4 is the oldest that gfx90a needs and the newest that clang 15 and ROCm 5 all load.
_AMD_FLAGS = ("-std=c++17", "-O3", "-nogpuinc", "-nogpulib", "-mcode-object-version=4", "--no-gpu-bundle-output")
_NVIDIA_FLAGS = ("-x", "cu", "-std=c++17", "-O3", "-cubin", "--resource-usage")
_CLANG_OF = {"gfx908": 15, "gfx90a": 15, "gfx942": 19}  # Debian's oldest package that compiles for it
_NEWEST_CLANG = 25
ROCM = Path("/opt/rocm")  # where ROCm installs itself; since 7.12 in a folder core-7.12, say, within
_PROBE = 'extern "C" __attribute__((global)) void probe() {}\n'


class CompilerError(ValueError):
    """No compiler serves an architecture, or one refused the code; says what to install or what it refused."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that was seen to compile for an architecture.

    Attributes:
        program: its path.
        version: the first line of its own account of itself.
        flags: what it is called with besides the files' names.
        suffix: of the files it writes, ``.hsaco`` or ``.cubin``.
    """

    program: str
    version: str
    flags: tuple[str, ...]
    suffix: str

    def compile(self, source: Path, target: Path) -> str:
        """Compile `source` to `target`; returns what was said on stderr. Raises `CompilerError` with it on failure."""
        done = _run([self.program, *self.flags, str(source), "-o", str(target)])
        if done.returncode != 0:
            first = max(done.stderr.find("error"), 0)
            begin = done.stderr.rfind("\n", 0, first) + 1
            raise CompilerError(f"{self.program} does not compile {source.name}: {done.stderr[begin:][:1000].strip()}")
        return done.stderr


def check_arch(arch: str) -> None:
    """Raise `CompilerError` unless `arch` names an architecture there are kernels for."""
    if arch not in _CLANG_OF and not re.fullmatch(r"sm_[89]\d|sm_1\d\d", arch):
        raise CompilerError(f"no kernels for architecture {arch!r}; there are for {', '.join(_CLANG_OF)} and sm_80 on")


@cache
def find_compiler(arch: str) -> Compiler:
    """The first compiler here that really compiles for `arch`; older versions of clang come first, ROCm's own last.

    Raises:
        CompilerError: `arch` is unknown, or nothing compiles for it; names what was tried and what to install.
    """
    check_arch(arch)
    tried = []
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.hip"
        probe.write_text(_PROBE, encoding="utf-8")
        for compiler in _candidates(arch):
            try:
                compiler.compile(probe, Path(folder) / f"probe{compiler.suffix}")
            except CompilerError as error:
                tried.append(f"{Path(compiler.program).name} ({_reason(str(error))})")
                continue
            return compiler
    seen = f"tried {', '.join(tried)}" if tried else "none was found"
    raise CompilerError(f"no compiler for {arch}: {seen}; install {_advice(arch)}")


def _candidates(arch: str) -> Iterator[Compiler]:
    if arch.startswith("sm_"):
        if program := shutil.which("nvcc"):
            yield Compiler(program, _version(program), (*_NVIDIA_FLAGS, f"-arch={arch}"), ".cubin")
        return
    clangs = [f"clang-{number}" for number in range(_CLANG_OF["gfx908"], _NEWEST_CLANG)]
    for name in (*clangs, "clang", "hipcc"):
        for program in _found(name):
            mode = ("--genco",) if name == "hipcc" else ("-x", "hip", "--cuda-device-only", "-c")
            yield Compiler(program, _version(program), (*mode, f"--offload-arch={arch}", *_AMD_FLAGS), ".hsaco")


def _found(name: str) -> Iterator[str]:
    """Programs of this name: on the path, then where ROCm puts its own, then where AMD's wheels do."""
    roots = [Path(root) for variable in ("ROCM_PATH", "HIP_PATH") if (root := os.environ.get(variable))]
    cores = sorted(ROCM.glob("core*"), key=lambda core: [int(part) for part in re.findall(r"\d+", core.name)])
    folders = [
        *(root / "bin" for root in (*roots, ROCM, *reversed(cores))),
        ROCM / "llvm/bin",
        Path(sys.executable).parent,
    ]
    seen = set()
    for path in (os.environ.get("PATH", os.defpath), *map(str, folders)):
        program = shutil.which(name, path=path)
        if program and os.path.realpath(program) not in seen:
            seen.add(os.path.realpath(program))
            yield program


def _version(program: str) -> str:
    lines = _run([program, "--version"]).stdout.splitlines()
    # nvcc begins with its name and copyright.
    return next((line.strip() for line in lines if "release" in line or "ersion" in line), "version unknown")


def _reason(message: str) -> str:
    found = re.search(r"error: (.+)", message)
    return found[1][:120] if found else " ".join(message.split())[-120:]


def _advice(arch: str) -> str:
    if arch.startswith("sm_"):
        return "the CUDA toolkit (nvcc)"
    number = _CLANG_OF[arch]
    return f"clang-{number} and lld-{number} (Debian's packages, both of one number), or ROCm's hipcc"


def installing(arch: str) -> str:
    """A command that installs a compiler for `arch` on Debian and Ubuntu, and what else would do."""
    if arch.startswith("sm_"):
        return "sudo apt install nvidia-cuda-toolkit   # or NVIDIA's own toolkit, with nvcc on the path"
    number = _CLANG_OF[arch]
    return f"sudo apt install clang-{number} lld-{number}   # or newer ones, both of one number; or ROCm's hipcc"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "HIP_PLATFORM": "amd"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
