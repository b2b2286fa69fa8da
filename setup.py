"""Build script: pyproject.toml says the rest; here, how csrc is compiled: by ninja, which rebuilds what changed, into
build/native."""

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import ninja
import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "build" / "native"
FLAGS = "-std=c++17 -O2 -fPIC -fvisibility=hidden -pthread -Wall -Wextra"
# The emulator computes in IEEE arithmetic: nothing may be contracted or reordered. AVX2 doubles its speed.
EMULATOR_FLAGS = "-O3 -ffp-contract=off -fno-math-errno -fno-trapping-math" + (
    " -march=x86-64-v3" if platform.machine() == "x86_64" else ""
)
SHARED, LAUNCHER, SEEN = "csrc", "csrc/launcher", "csrc/seen"
EMULATOR, STANDIN = "csrc/emulator", "csrc/standin"
BINDINGS = "csrc/emulator/bindings.cpp"
LIBRARY = "updp_rt.emulator.libamdhip64_standin"  # a plain shared library, no module
FOLDERS = {
    "updp_rt._launcher": [SHARED, LAUNCHER],
    "updp_rt._seen": [SEEN],
    "updp_rt.emulator._core": [SHARED, EMULATOR],
    LIBRARY: [SHARED, EMULATOR, STANDIN],
}


def sources(target: str) -> list[str]:
    """The files that `target` is linked from, relative to the root."""
    found = [
        str(path.relative_to(ROOT)) for folder in FOLDERS[target] for path in sorted((ROOT / folder).glob("*.cpp"))
    ]
    return [path for path in found if target != LIBRARY or path != BINDINGS]


def compiler() -> str:
    """The C++ compiler: $CXX, else the first there is.

    Raises:
        CompileError: there is none, or Python's headers are missing.
    """
    found = [
        name for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name and shutil.which(name.split()[0])
    ]
    if not found:
        raise CompileError("no C++ compiler: install g++ (Debian, Ubuntu: apt-get install g++) or name one in $CXX")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise CompileError("no Python.h: install Python's headers (Debian, Ubuntu: apt-get install python3-dev)")
    return found[0]


def build_file(targets: list[str]) -> str:
    """build.ninja, run from the root, for all `targets`; a source that several share is compiled once."""
    folders = (sysconfig.get_path("include"), pybind11.get_include())
    includes = " ".join(f"-isystem {shlex.quote(path)}" for path in folders)
    lines = [
        "builddir = build/native",
        "rule compile",
        f"  command = {compiler()} {FLAGS} $flags {includes} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = $in",
        "rule link",
        f"  command = {compiler()} -shared -pthread $in -o $out -ldl",
        "  description = $out",
    ]
    for source in sorted({source for target in targets for source in sources(target)}):
        lines.append(f"build build/native/{source}.o: compile {source}")
        if source.startswith(EMULATOR):
            lines.append(f"  flags = {EMULATOR_FLAGS}")
    for target in targets:
        objects = " ".join(f"build/native/{source}.o" for source in sources(target))
        lines.append(f"build build/native/{target}.so: link {objects}")
    return "\n".join(lines) + "\n"


class Build(build_ext):
    """Compiles all extensions at once, into the wheel or, for an editable install, beside the sources."""

    def run(self) -> None:
        targets = [extension.name for extension in self.extensions]
        NATIVE.mkdir(parents=True, exist_ok=True)
        (NATIVE / "build.ninja").write_text(build_file(targets))
        command = [str(Path(ninja.BIN_DIR, "ninja")), "-f", str(NATIVE / "build.ninja")]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise CompileError("the native code did not compile; the compiler's messages are above")
        for target in targets:
            self.install(NATIVE / f"{target}.so", Path(self.get_ext_fullpath(target)))

    def install(self, built: Path, path: Path) -> None:
        """Put the file into its place at once: a process may have the old one mapped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        shutil.copy2(built, temporary)
        temporary.replace(path)

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith(LIBRARY.rpartition(".")[2]):
            return fullname.replace(".", "/") + ".so"
        return super().get_ext_filename(fullname)


setup(
    packages=find_packages(include=["updp_rt*"]),  # with updp_rt.kernels, a link to the folder at the top level
    ext_modules=[Extension(target, sources(target)) for target in FOLDERS],
    cmdclass={"build_ext": Build},
)
