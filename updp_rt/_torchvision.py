"""timm imports torchvision, whose compiled part may belong to another torch build than the one installed.

torchvision then fails to import with "operator torchvision::nms does not exist", though timm needs nothing
compiled from it. Defining the two schemas it asks for is enough, and is done only when the compiled part
cannot be loaded, at the moment torchvision is first imported.

``python updp_rt/_torchvision.py`` (part of ``make setup``) does the same for an environment: there timm can then be
imported before this package, or without it. Where torchvision imports anyway, nothing is written.
"""

# This module is loaded whenever an interpreter of such an environment starts: it imports next to nothing by itself.

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

_NAME = "_updp_rt_torchvision"
_keep_alive: list[Any] = []  # a torch.library fragment lives as long as its handle


class TorchvisionFinder:
    """A finder that finds nothing: it is asked just before torchvision is imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = PathFinder.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _define_missing_schemas(spec.origin)
        return None  # the ordinary finders do the import


def _define_missing_schemas(origin: str) -> None:
    from pathlib import Path

    import torch

    for library in Path(origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            continue
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    fragment.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    fragment.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep_alive.append(fragment)


def make_torchvision_importable() -> None:
    """Arrange for ``import torchvision`` to succeed beside a torch build it was not compiled for."""
    # By name: the environment's copy of this module has a class of its own.
    if "torchvision" not in sys.modules and not any(
        type(finder).__name__ == TorchvisionFinder.__name__ for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, TorchvisionFinder())


def install(site_packages: Path) -> None:
    """Make every interpreter that reads `site_packages` call `make_torchvision_importable` when it starts."""
    from pathlib import Path

    (site_packages / f"{_NAME}.py").write_bytes(Path(__file__).read_bytes())
    (site_packages / f"{_NAME}.pth").write_text(f"import {_NAME}; {_NAME}.make_torchvision_importable()\n")


def main() -> None:
    """Install into the running environment where torchvision does not import; exit with status 1 if it never does."""
    import subprocess
    import sysconfig
    from pathlib import Path

    def imports() -> bool:
        return (
            subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode
            == 0
        )

    site_packages = Path(sysconfig.get_paths()["purelib"])
    if (site_packages / f"{_NAME}.pth").exists() or not imports():
        install(site_packages)
        if not imports():
            sys.exit("torchvision does not import: install the one that belongs to your torch")


if __name__ == "__main__":
    main()
