"""From values to pixels, the ticks between, and how numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from updp_rt.report.charts.svg import Drawing, text_width

SPACE, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto pixels from `start` to `end`, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`; what lies beyond the ends is put at the end."""
        if math.isnan(value):
            return self.end
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        if self.log:
            value = math.log10(value) if value > 0 else low
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the scale."""
        if self.log:
            first, last = math.floor(math.log10(self.low) + 1e-9), math.ceil(math.log10(self.high) - 1e-9)
            stride = max(1, math.ceil((last - first + 1) / count))
            within = (1, 2, 5) if 3 * (last - first) <= count else (1,)
            found = [base * 10.0**power for power in range(first, last + 1, stride) for base in within]
            return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        step = _round_step((self.high - self.low) / max(1, count))
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def padded(values: list[float], share: float = 0.06, least: float = 0.0) -> tuple[float, float]:
    """The range of `values` with some margin around it, at least `least` wide."""
    low, high = min(values), max(values)
    air = max(share * (high - low), (least - (high - low)) / 2, 1e-9)
    return low - air, high + air


def log_range(values: list[float]) -> tuple[float, float]:
    """The values 1, 2 or 5 times a power of ten around positive `values`, over at least a decade."""
    found = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    low, high = 0.999 * min(found), 1.001 * max(found)
    power = 10.0 ** math.floor(math.log10(low))
    low = max(base * power for base in (1, 2, 5) if base * power <= low)
    power = 10.0 ** math.floor(math.log10(high))
    high = min(base * power for base in (1, 2, 5, 10) if base * power >= high)
    return low, max(high, 10 * low)


def axis_below(drawing: Drawing, scale: Scale, top: float, bottom: float, title: str, count: int) -> None:
    """Grid lines from `top` to `bottom`, their values below, and the axis' title below these."""
    ticks = scale.ticks(count)
    for value, label in zip(ticks, tick_labels(ticks, scale), strict=True):
        drawing.line(scale(value), top, scale(value), bottom, "grid")
        drawing.text(scale(value), bottom + 17, label, "label", "middle")
    drawing.text((scale.start + scale.end) / 2, bottom + 37, title, "axis", "middle")


def axis_left(drawing: Drawing, scale: Scale, left: float, right: float, count: int, unit: str = "") -> None:
    """Grid lines from `left` to `right`, with their values left of them."""
    ticks = scale.ticks(count)
    for value, label in zip(ticks, tick_labels(ticks, scale), strict=True):
        drawing.line(left, scale(value), right, scale(value), "grid")
        drawing.text(left - 8, scale(value) + 4, label + unit, "label", "end")


def tick_labels(ticks: list[float], scale: Scale) -> list[str]:
    """How ticks are written: on a linear scale all with as many decimals as the finest needs."""
    if scale.log:
        return [f"{value:g}" if 1e-3 <= value <= 1e4 else f"{value:.0e}" for value in ticks]
    decimals = max((len(f"{value:.6f}".rstrip("0").partition(".")[2]) for value in ticks), default=0)
    return [f"{value + 0.0:.{decimals}f}" for value in ticks]


def fits(text: str, pixels: float) -> bool:
    return text_width(text) <= pixels


def milliseconds(value: float) -> str:
    """Three significant digits and the unit."""
    return f"{significant(value)}{SPACE}ms"


def significant(value: float) -> str:
    """Three significant digits, never with an exponent between a millionth and a million."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-6 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}%"


def times(ratio: float) -> str:
    return f"{ratio:.2f}×"


def quantity(value: float) -> str:
    """``5489482`` as ``5.49 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{significant(value / size)}{SPACE}{unit}"
    return f"{value:g}"


def yes(passed: bool) -> str:
    return "yes" if passed else "NO"


def error(value: float) -> str:
    """An error or a bound."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}".replace("-", MINUS) if exponent else mantissa


def _round_step(step: float) -> float:
    """The next round number (1, 2, 2.5 or 5 times a power of ten) above `step`."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(base * power for base in (1, 2, 2.5, 5, 10) if base * power >= step * (1 - 1e-9))
