"""What judging models on a number of images can tell apart.

Models are compared by their mean cross entropy: it orders subnets more like training them alone does than their
accuracy, which of an image knows only whether it is right (the study `kendall`). On the same images they are compared
image by image: the mean of differences d has the standard error ``std(d) / sqrt(n)``, whatever both find easy or hard.

Results of old hold accuracies alone. Of n images drawn at random an accuracy p has the standard error
``sqrt(p·(1 - p) / n)``. On the same images, where one is right and the other wrong on a images, and the reverse on b,
accuracies differ by ``(a - b) / n``, and if both were equally good, a - b would have the standard deviation
``sqrt(a + b)`` (McNemar, Psychometrika 1947). What both get right says nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_MOST = 6e4  # cross entropy that half precision holds: also what stands for one that is not finite


@dataclass(frozen=True, eq=False)
class Hits:
    """Which images a model got right, and how sure of it it was.

    Attributes:
        right: ``[N]`` booleans.
        order: stands for the images: two `Hits` with the same one are compared image by image.
        losses: ``[N]`` cross entropies in float16; None in results of old.
    """

    right: NDArray[np.bool_]
    order: str
    losses: NDArray[np.float16] | None = None

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> Hits:
        """From batches of ``[N, classes]`` logits and labels; the images are known by the order of their labels.

        Raises:
            ValueError: there are no images.
        """
        right: list[NDArray[np.bool_]] = []
        losses: list[NDArray[np.float16]] = []
        order = hashlib.sha256()
        for logits, labels in batches:
            right.append((logits.argmax(-1) == labels).numpy())
            loss = F.cross_entropy(logits.float(), labels, reduction="none").nan_to_num(_MOST, _MOST)
            losses.append(loss.clamp(max=_MOST).half().numpy())
            order.update(labels.numpy().tobytes())
        if not sum(map(len, right)):
            raise ValueError("the validation split holds no images")
        return cls(np.concatenate(right), order.hexdigest()[:16], np.concatenate(losses))

    @property
    def accuracy(self) -> float:
        return int(self.right.sum()) / len(self.right)

    @property
    def score(self) -> float:
        """What models are compared by, more being better: less the mean cross entropy, or else the accuracy."""
        return self.accuracy if self.losses is None else -float(self.losses.mean(dtype=np.float64))

    def to_text(self) -> str:
        """All of it in one word: a bit an image and, where they are known, its loss, in base64."""
        parts = [self.order, str(len(self.right)), _packed(np.packbits(self.right))]
        return ":".join(parts if self.losses is None else [*parts, _packed(self.losses.astype("<f2"))])

    @classmethod
    def from_text(cls, text: str) -> Hits:
        """What `to_text` was made from."""
        order, count, packed, *losses = text.split(":")
        bits = np.frombuffer(base64.b64decode(packed), np.uint8)
        right = np.unpackbits(bits, count=int(count)).astype(bool)
        return cls(right, order, *(np.frombuffer(base64.b64decode(each), "<f2") for each in losses))


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()


@dataclass(frozen=True)
class Noise:
    """Which of several models are as good as the best, as far as the images show.

    Attributes:
        level: indices of those within one standard error of the best, it among them.
        error: that standard error: of the best's score, or in the median of the differences to it.
        paired: whether all were compared image by image.
        by_loss: whether by cross entropies, or by accuracies.
    """

    level: tuple[int, ...]
    error: float
    paired: bool
    by_loss: bool


def compare(models: Sequence[Hits], *, by_loss: bool = True) -> Noise:
    """Compare each model with the best: image by image where all were judged on the same ones.

    By cross entropies, unless these are not known of all, or `by_loss` says otherwise.
    """
    by_loss = by_loss and all(model.losses is not None for model in models)
    if not by_loss:
        models = [replace(model, losses=None) for model in models]
    best = max(models, key=lambda model: model.score)
    others = [model for model in models if model is not best]
    paired = bool(others) and all(model.order == best.order for model in others)
    errors = [difference_error(best, model) if paired else own_error(best) for model in models]
    level = [i for i, model in enumerate(models) if best.score - model.score <= errors[i] + 1e-12]
    shown = statistics.median(difference_error(best, model) for model in others) if paired else own_error(best)
    return Noise(tuple(level), shown, paired, by_loss)


def own_error(one: Hits) -> float:
    """Standard error of a score on images drawn at random."""
    if one.losses is not None:
        return _error_of_mean(one.losses)
    return math.sqrt(one.accuracy * (1 - one.accuracy) / len(one.right))


def difference_error(one: Hits, other: Hits) -> float:
    """Standard error of the difference of two scores on the same images; of accuracies if both are equally good."""
    if one.losses is not None and other.losses is not None:
        return _error_of_mean(one.losses.astype(np.float64) - other.losses)
    return math.sqrt(int((one.right != other.right).sum())) / len(one.right)


def _error_of_mean(values: NDArray[Any]) -> float:
    """Infinite of a single value, which says nothing of how others would spread."""
    count = len(values)
    return float(values.std(ddof=1, dtype=np.float64)) / math.sqrt(count) if count > 1 else math.inf
