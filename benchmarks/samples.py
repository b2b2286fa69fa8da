"""Samples of one candidate's time: median and quartiles, and how sure the ratio of two medians is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

# Half the width of a notch, in quartile distances over the root of the count: two notches that do not overlap tell two
# medians apart at about 95% (McGill, Tukey and Larsen, Variations of Box Plots, 1978).
_NOTCH = 1.57


@dataclass(frozen=True)
class Summary:
    """Milliseconds a call: the median over the rounds, and the quartiles."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Summary:
        milliseconds = [value * 1e3 for value in seconds]
        if len(milliseconds) == 1:
            return cls(milliseconds[0], milliseconds[0], milliseconds[0], 1)
        q1, median, q3 = statistics.quantiles(milliseconds, n=4, method="inclusive")
        return cls(median, q1, q3, len(milliseconds))

    def to_dict(self) -> dict[str, Any]:
        return {
            key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }

    @property
    def noise(self) -> float:
        """Half the width of the median's interval, as a share of it; infinite of a single round."""
        if self.rounds < 2:
            return math.inf
        return _NOTCH * (self.q3_ms - self.q1_ms) / math.sqrt(self.rounds) / self.median_ms


def ratio_interval(a: Summary, b: Summary) -> tuple[float, float, float]:
    """How much faster `b` is than `a`: the ratio of medians, and the interval that the noise within each run leaves."""
    ratio, noise = a.median_ms / b.median_ms, math.hypot(a.noise, b.noise)
    return (ratio, 0.0, math.inf) if math.isinf(noise) else (ratio, ratio * math.exp(-noise), ratio * math.exp(noise))


def geometric_mean(values: Iterable[float]) -> float:
    """NaN of no values."""
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and standard deviation of shares, in %; of a single one, which says nothing of others, itself."""
    mean = f"{100 * statistics.mean(values):{'+' if signed else ''}.2f}"
    return f"{mean} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else mean


def kendall_tau(a: Sequence[float], b: Sequence[float], groups: Sequence[object] | None = None) -> float:
    """How far two scores order the same things alike: from -1 to 1, ties as in τ-b (Kendall, 1945).

    With groups, pairs within a group count alone. NaN where one of the scores tells nothing apart.
    """
    agree, told_a, told_b = 0, 0, 0
    for (a1, b1, one), (a2, b2, other) in combinations(zip(a, b, groups or [None] * len(a), strict=True), 2):
        if one == other:
            x, y = (a1 > a2) - (a1 < a2), (b1 > b2) - (b1 < b2)
            agree, told_a, told_b = agree + x * y, told_a + abs(x), told_b + abs(y)
    return agree / math.sqrt(told_a * told_b) if told_a and told_b else math.nan
