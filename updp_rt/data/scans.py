"""Data sets of small grey scans in IDX files: Fashion-MNIST above all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from updp_rt.data.holding import hold_out
from updp_rt.data.idx import FASHION_MNIST, Scans, read_folder

# Nothing is subtracted, so that the ground stays 0, which is what the frame and every convolution's padding hold:
# timm's border mode, by which others serve the model, fills with the mean. The divisor is Fashion-MNIST's root mean
# square.
MEAN, STD = 0.0, 0.4543
FRAME = 2  # pixels of ground around a scan: 28x28 becomes 32x32
AUGMENTATION = f"shifted by up to {FRAME} pixels, and mirrored or not"

NAME, PREFIX = "fashion-mnist", "idx/"


def names_scans(data: str) -> bool:
    """Whether a data set's name is of those that `open_scans` opens."""
    return data == NAME or data.startswith(PREFIX)


class ScanImages(Dataset[tuple[Tensor, int]]):
    """Scans in a frame, as float32 images ``[channels, height, width]``.

    Args:
        scans: pixels and classes.
        size: ``(height, width)``; that of scan and frame is not resized.
        channels: number of equal channels.
        augment: put each scan anywhere in its frame, mirrored or not, from torch's global generator.
        mean, std: of pixels between 0 and 1, one value a channel. The frame is filled with the mean.
        indices: of the scans that belong to the split; all by default.
    """

    def __init__(
        self,
        scans: Scans,
        size: tuple[int, int] = (32, 32),
        channels: int = 3,
        *,
        augment: bool = False,
        mean: Sequence[float] = (MEAN,),
        std: Sequence[float] = (STD,),
        indices: Sequence[int] | None = None,
    ) -> None:
        self.images, self.labels = scans.images, scans.labels.long()
        if indices is not None:
            chosen = torch.as_tensor(indices)
            self.images, self.labels = self.images[chosen], self.labels[chosen]
        self.size, self.augment = size, augment
        # What each of the 256 values becomes: the arithmetic of torchvision's ToTensor and Normalize, done once.
        middle, spread = (torch.tensor(tuple(values)).view(-1, 1).expand(channels, 1) for values in (mean, std))
        self.table = (torch.arange(256, dtype=torch.float32) / 255 - middle) / spread
        ground = (255 * middle).round().long().clamp(0, 255)
        self.ground = self.table.gather(1, ground)[:, :, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        scan = self.images[index]
        top = left = FRAME
        if self.augment:
            top, left, mirrored = (int(torch.randint(0, end, ())) for end in (2 * FRAME + 1, 2 * FRAME + 1, 2))
            scan = scan.flip(1) if mirrored else scan
        edge = scan.shape[0]
        image = self.ground.repeat(1, edge + 2 * FRAME, edge + 2 * FRAME)
        image[:, top : top + edge, left : left + edge] = self.table[:, scan.long()]
        if self.size != image.shape[1:]:
            image = F.interpolate(image[None], size=self.size, mode="bilinear", align_corners=False, antialias=True)[0]
        return image, int(self.labels[index])


def open_scans(data: str, val_fraction: float) -> tuple[dict[str, Scans], dict[str, list[int] | None]]:
    """Train and test of ``fashion-mnist`` or ``idx/FOLDER``, and which images of which are train, val and test.

    Validation is a share of the training images, always the same ones.

    Raises:
        ValueError: as `read_folder`; the package is not installed.
    """
    folder = FASHION_MNIST if data == NAME else Path(data.removeprefix(PREFIX))
    if data == NAME and not folder.is_dir():
        raise ValueError(
            f"{folder}: Fashion-MNIST is not there: install Debian's package (apt-get install dataset-fashion-mnist), "
            f"or give a folder that holds its files, as torchvision fetches them: {PREFIX}FOLDER"
        )
    found = read_folder(folder)
    kept, held_out = hold_out(found["train"].labels.tolist(), val_fraction, folder)
    return found, {"train": kept, "val": held_out, "test": None}
