"""``make TORCH=system``: an environment that uses the torch, torchvision and triton of the interpreter it is made from.

``python -P updp_rt/_system_torch.py VENV``, run by that interpreter, which may be of an environment itself. VENV then
sees its packages behind its own; ``VENV/requirements.txt`` asks for all but those three, and ``VENV/constraints.txt``
has pip fail rather than replace them.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from importlib import import_module, metadata
from pathlib import Path

KEPT = ("torch", "torchvision", "triton")
_OTHER_NAMES = ("triton-rocm", "pytorch-triton-rocm")  # under which triton is installed for ROCm


def prepare(venv: Path, requirements: Path) -> None:
    """Write the three files.

    Raises:
        SystemExit: one of the three cannot be imported here.
    """
    for name in KEPT:
        try:
            import_module(name)
        except (ImportError, RuntimeError) as error:
            sys.exit(
                f"TORCH=system: {sys.executable} cannot import {name} ({error}); name another with: make PYTHON=..."
            )
    lines = requirements.read_text(encoding="utf-8").splitlines(keepends=True)
    wanted = [line for line in lines if re.split(r"[=<>~! ]", line)[0] not in KEPT]
    (venv / "requirements.txt").write_text("".join(wanted), encoding="utf-8")
    kept = "".join(f"{name}=={version}\n" for name, version in _versions().items())
    (venv / "constraints.txt").write_text(kept, encoding="utf-8")
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    adding = "".join(f"import site; site.addsitedir({path!r})\n" for path in folders)
    site_packages = sysconfig.get_path("purelib", "venv", {"base": str(venv), "platbase": str(venv)})
    (Path(site_packages) / "_system_torch.pth").write_text(adding, encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {}
    for name in (*KEPT, *_OTHER_NAMES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path("requirements.txt"))
