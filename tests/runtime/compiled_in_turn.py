"""Compile models of two widths, each with a cache folder that another process may have filled; fails by assertion.

Arguments: width and folder, and again width and folder.
"""

from __future__ import annotations

import os
import sys

import updp_rt  # noqa: F401 - makes torchvision importable beside any torch build

import torch  # isort: skip
from torch import nn  # isort: skip
from tests.runtime.small import assert_same, twins  # isort: skip


def main(arguments: list[str]) -> None:
    for width, folder in zip(arguments[::2], arguments[1::2], strict=True):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        torch.compiler.reset()
        torch.manual_seed(int(width))
        # One fused operator and nothing beside it: there is no code that a C++ compiler would have to build.
        model = nn.Sequential(nn.Conv2d(3, int(width), 3), nn.BatchNorm2d(int(width)), nn.ReLU())
        source, fast, images = twins(model, backends=["reference"])
        with torch.no_grad():
            assert_same(torch.compile(fast), source, images)


if __name__ == "__main__":
    main(sys.argv[1:])
