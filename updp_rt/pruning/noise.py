"""What accuracies on a number of images can tell apart.

Of n images drawn at random an accuracy p has the standard error ``sqrt(p·(1 - p) / n)``. Two models judged on the same
images are compared better image by image: where one is right and the other wrong on a images, and the reverse on b,
their accuracies differ by ``(a - b) / n``, and if they were equally good, a - b would have the standard deviation
``sqrt(a + b)`` (McNemar, Psychometrika 1947). What both get right says nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Hits:
    """Which images a model got right.

    Attributes:
        right: ``[N]`` booleans.
        order: stands for the images: two `Hits` with the same one are compared image by image.
    """

    right: NDArray[np.bool_]
    order: str

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> Hits:
        """From batches of top-1 classes and labels; the images are known by the order of their labels.

        Raises:
            ValueError: there are no images.
        """
        right: list[NDArray[np.bool_]] = []
        order = hashlib.sha256()
        for predicted, labels in batches:
            right.append((predicted == labels).numpy())
            order.update(labels.numpy().tobytes())
        if not sum(map(len, right)):
            raise ValueError("the validation split holds no images")
        return cls(np.concatenate(right), order.hexdigest()[:16])

    @property
    def accuracy(self) -> float:
        return int(self.right.sum()) / len(self.right)

    def to_text(self) -> str:
        """All of it in one word: a bit an image, in base64."""
        packed = base64.b64encode(np.packbits(self.right).tobytes()).decode()
        return f"{self.order}:{len(self.right)}:{packed}"

    @classmethod
    def from_text(cls, text: str) -> Hits:
        """What `to_text` was made from."""
        order, count, packed = text.split(":")
        bits = np.frombuffer(base64.b64decode(packed), np.uint8)
        return cls(np.unpackbits(bits, count=int(count)).astype(bool), order)


@dataclass(frozen=True)
class Noise:
    """Which of several models are as accurate as the best, as far as the images show.

    Attributes:
        level: indices of those within one standard error of the best, it among them.
        error: that standard error: of the best's accuracy, or in the median of the differences to it.
        paired: whether all were compared image by image.
    """

    level: tuple[int, ...]
    error: float
    paired: bool


def compare(models: Sequence[Hits]) -> Noise:
    """Compare each model with the best: image by image where all were judged on the same ones."""
    best = max(models, key=lambda model: model.accuracy)
    others = [model for model in models if model is not best]
    binomial = math.sqrt(best.accuracy * (1 - best.accuracy) / len(best.right))
    paired = bool(others) and all(model.order == best.order for model in others)
    errors = [difference_error(best, model) if paired else binomial for model in models]
    level = [i for i, model in enumerate(models) if best.accuracy - model.accuracy <= errors[i] + 1e-12]
    shown = statistics.median(difference_error(best, model) for model in others) if paired else binomial
    return Noise(tuple(level), shown, paired)


def difference_error(one: Hits, other: Hits) -> float:
    """Standard error of the difference of two accuracies on the same images, if both are equally good."""
    return math.sqrt(int((one.right != other.right).sum())) / len(one.right)
