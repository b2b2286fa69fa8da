"""timm imports torchvision, whose compiled part may belong to another torch build than the one installed.

torchvision then fails to import with "operator torchvision::nms does not exist", though timm needs nothing
compiled from it. Defining the two schemas it asks for is enough, and is done only when the compiled part
cannot be loaded, at the moment torchvision is first imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_keep_alive: list[Any] = []  # a torch.library fragment lives as long as its handle


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec("torchvision")
            if spec is not None and spec.origin is not None:
                _define_missing_schemas(Path(spec.origin).parent)
        return None  # the ordinary finders do the import


def _define_missing_schemas(package: Path) -> None:
    import torch

    for library in package.glob("_C*.so"):
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
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _TorchvisionFinder())
