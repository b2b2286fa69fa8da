"""The embedded data set: scikit-learn's handwritten digits (1,797 real scans, 8x8, ten classes)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

NUM_CLASSES = 10
MEAN, STD = 0.3053, 0.3760  # of the scans, ink being 1
_FRACTIONS = {"train": (0.0, 0.6), "val": (0.6, 0.75), "test": (0.75, 1.0)}


class Digits(Dataset[tuple[Tensor, int]]):
    """One split of the digits, as float32 images ``[channels, height, width]`` of zero mean and unit variance.

    The split is fixed (60% train, 15% val, 25% test), so accuracies can be compared between runs.

    Args:
        split: "train", "val" or "test".
        size: ``(height, width)`` the 8x8 scans are resized to.
        channels: number of equal channels.
        augment: shift each image at random by up to half a pixel of the original scan, from torch's global generator.
        mean, std: what is subtracted from the scans (ink is 1, paper 0), and what they are then divided by: one value
            per channel. By default their own, for zero mean and unit variance.
    """

    def __init__(
        self,
        split: str,
        size: tuple[int, int] = (32, 32),
        channels: int = 3,
        *,
        augment: bool = False,
        mean: Sequence[float] = (MEAN,),
        std: Sequence[float] = (STD,),
    ) -> None:
        from sklearn.datasets import load_digits

        if split not in _FRACTIONS:
            raise ValueError(f"no split {split!r} of the digits; choose one of {', '.join(_FRACTIONS)}")
        scans = load_digits()
        images = torch.from_numpy(scans.images).float().unsqueeze(1)
        labels = torch.from_numpy(scans.target).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1797))
        start, end = (round(f * len(labels)) for f in _FRACTIONS[split])
        chosen = order[start:end]
        middle, spread = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        images = (images[chosen] / 16.0 - middle) / spread
        resized = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        self.images = resized.expand(-1, channels, -1, -1)
        paper = [-m / s for m, s in zip(mean, std, strict=True)]
        self.paper = torch.tensor(paper).view(-1, 1, 1).expand(channels, 1, 1)
        self.labels = labels[chosen]
        self.shift = (size[0] // 16, size[1] // 16) if augment else (0, 0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        dy, dx = self.shift
        if dy or dx:
            top = int(torch.randint(0, 2 * dy + 1, ()))
            left = int(torch.randint(0, 2 * dx + 1, ()))
            _, height, width = image.shape
            padded = self.paper.repeat(1, height + 2 * dy, width + 2 * dx)
            padded[:, dy : dy + height, dx : dx + width] = image
            image = padded[:, top : top + height, left : left + width]
        return image.contiguous(), int(self.labels[index])
