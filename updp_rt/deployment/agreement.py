"""That an exported model computes what its source does, on several numbers of images, and sizes where it takes any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from updp_rt.deployment.errors import ExportError
from updp_rt.runtime.judging import Judge

COUNTS = (1, 2, 5)
Run = Callable[[Tensor], Any]
# Compares what a file gives with the source; raises `ExportError` where it is too far off.
Check = Callable[[Run], None]


@dataclass(frozen=True)
class Agreement:
    """Images ``[N, C, H, W]`` that were compared, the largest error against float64, and the bound that it is under."""

    shape: tuple[int, ...]
    error: float
    bound: float


class Source:
    """A model in eval mode, images ``[N, C, H, W]`` for it, and how far another that stands for it may be off.

    The bound is that of certificates: twice the error of torch's own operators in that dtype, and rounding's share.
    """

    def __init__(self, model: nn.Module, input_size: tuple[int, int, int]) -> None:
        self.model = model
        weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
        if not weights:
            raise ExportError(f"this {type(model).__name__} has no weights that say its dtype and device")
        channels, height, width = self.input_size = input_size
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(max(COUNTS), *input_size, generator=generator)
        self.images = images.to(weights[0])
        self._larger = torch.randn(2, channels, 3 * height // 2, 2 * width, generator=generator).to(weights[0])
        self._judges: dict[tuple[int, ...], Judge] = {}

    def compare(self, run: Run, *, any_size: bool) -> list[Agreement]:
        """Run `run` on several numbers of images, and on images of another size.

        Raises:
            ExportError: it fails on some, or gives something else.
        """
        inputs = [self.images[:count] for count in COUNTS]
        if any_size:
            inputs.append(self._larger)
        return [self._agree(run, images) for images in inputs]

    def _agree(self, run: Run, images: Tensor) -> Agreement:
        shape = tuple(images.shape)
        if shape not in self._judges:
            self._judges[shape] = Judge(self.model, images)
        try:
            with torch.no_grad():
                found = run(images)
        except Exception as error:  # whatever another runtime raises
            raise ExportError(f"what was exported fails on images {list(shape)}: {error}") from error
        lengths = {len(leaf) for leaf in tree_leaves(found)}
        if lengths != {len(images)}:
            raise ExportError(f"what was exported gives {sorted(lengths)} results for images {list(shape)}")
        verdict = self._judges[shape](lambda _: found)
        if not verdict.passed:
            raise ExportError(
                f"what was exported computes something else: error {verdict.error:.1e} on images {list(shape)}, bound "
                f"{verdict.bound:.1e}, {verdict.disagree} of {verdict.decided} in another class"
            )
        return Agreement(shape, verdict.error, verdict.bound)
