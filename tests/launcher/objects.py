"""Code objects to load: kernels.hip as clang compiles it."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.hip")


@cache
def code_object(arch: str = "gfx908", version: int = 4) -> bytes:
    """kernels.hip for `arch`, as a code object of this version."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernels.hsaco")
        flags = ["-x", "hip", "--cuda-device-only", "--no-gpu-bundle-output", "-nogpuinc", "-nogpulib", "-O3", "-c"]
        choice = [f"--offload-arch={arch}", f"-mcode-object-version={version}"]
        subprocess.run(["clang-15", *flags, *choice, str(SOURCE), "-o", str(target)], check=True)
        return target.read_bytes()


def bundle(images: dict[str, bytes]) -> bytes:
    """A clang offload bundle of images by target, as clang-offload-bundler writes it."""
    header = b"__CLANG_OFFLOAD_BUNDLE__" + len(images).to_bytes(8, "little")
    offset = 4096
    for target, image in images.items():
        for number in (offset, len(image), len(target)):
            header += number.to_bytes(8, "little")
        header += target.encode()
        offset += len(image)
    return header.ljust(4096, b"\0") + b"".join(images.values())
