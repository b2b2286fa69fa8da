"""SVG as escaped text. Colours are classes of the page's style sheet, so one drawing serves light, dark and print."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from markupsafe import Markup, escape

Value = str | float | None

WIDE, NARROW = 960.0, 358.0  # a desktop's column and a phone's, in CSS pixels
SMALL = 12.0  # size of text


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it shows, and what it sorts by where that differs."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Table:
    """A table. The first column names its rows; columns in `numeric` are set to the right."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Legend:
    """One entry: the class that colours it, its mark ("box", "line", "dash", or a shape of `shape`), its words."""

    css: str
    mark: str
    label: str


@dataclass(frozen=True)
class Chart:
    """A picture with its words: `description` says what is to be seen, `table` holds the same data."""

    name: str
    title: str
    description: str
    drawings: dict[str, Drawing]
    table: Table
    legend: list[Legend] = field(default_factory=list)


def element(tag: str, *children: Markup | str, **attributes: Value) -> Markup:
    """``<tag …>children</tag>``; underscores in names are hyphens, ``class_`` is class, None leaves out."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{given}>{inner}</{tag}>" if inner else f"<{tag}{given}/>")


def drawings(draw: Callable[[float], Drawing], wide: float = WIDE) -> dict[str, Drawing]:
    """The chart at both widths; the page shows the one that fits."""
    return {"wide": draw(wide), "narrow": draw(NARROW)}


class Drawing:
    """Elements on a canvas of `width` x `height`, drawn in the order they are added."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[Markup] = []

    def add(self, *parts: Markup) -> None:
        self._parts += parts

    def rect(self, x: float, y: float, width: float, height: float, css: str, radius: float = 0.0) -> None:
        self.add(rect(x, y, width, height, css, radius))

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        self.add(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css))

    def polyline(self, points: Iterable[tuple[float, float]], css: str) -> None:
        self.add(element("polyline", points=" ".join(f"{_plain(x)},{_plain(y)}" for x, y in points), class_=css))

    def polygon(self, points: Iterable[tuple[float, float]], css: str) -> None:
        self.add(element("polygon", points=" ".join(f"{_plain(x)},{_plain(y)}" for x, y in points), class_=css))

    def text(self, x: float, y: float, text: str, css: str = "label", anchor: str = "start") -> None:
        """Text whose baseline is at `y`."""
        self.add(element("text", text, x=x, y=y, class_=css, text_anchor=None if anchor == "start" else anchor))

    def mark(self, tip: str, *parts: Markup) -> None:
        """Something that can be pointed at, and reached with the arrow keys: `tip` is what it says then."""
        self.add(element("g", element("title", tip), *parts, class_="mark"))

    def render(self) -> Markup:
        return Markup("").join(self._parts)


def rect(x: float, y: float, width: float, height: float, css: str, radius: float = 0.0) -> Markup:
    return element("rect", x=x, y=y, width=max(0.0, width), height=height, class_=css, rx=radius or None)


def shape(kind: str, x: float, y: float, size: float, css: str) -> Markup:
    """A mark of about `size` pixels' radius: "circle", "square", "diamond", "triangle" or "cross"."""
    s = size
    corners = {
        "square": ((-0.9 * s, -0.9 * s), (0.9 * s, -0.9 * s), (0.9 * s, 0.9 * s), (-0.9 * s, 0.9 * s)),
        "diamond": ((0.0, -1.3 * s), (1.3 * s, 0.0), (0.0, 1.3 * s), (-1.3 * s, 0.0)),
        "triangle": ((0.0, -1.2 * s), (1.15 * s, 0.9 * s), (-1.15 * s, 0.9 * s)),
    }
    if kind in corners:
        points = " ".join(f"{_plain(x + dx)},{_plain(y + dy)}" for dx, dy in corners[kind])
        return element("polygon", points=points, class_=css)
    if kind == "cross":
        lines = f"M{_plain(x - s)} {_plain(y - s)}L{_plain(x + s)} {_plain(y + s)}"
        return element("path", d=f"{lines}M{_plain(x - s)} {_plain(y + s)}L{_plain(x + s)} {_plain(y - s)}", class_=css)
    return element("circle", cx=x, cy=y, r=s, class_=css)


def key_mark(entry: Legend) -> Markup:
    """The mark of a legend's entry, on a canvas of 18 x 12."""
    if entry.mark in ("line", "dash"):
        return element("line", x1=0.0, y1=6.0, x2=18.0, y2=6.0, class_=entry.css)
    if entry.mark == "box":
        return rect(1, 1, 16, 10, entry.css, 2)
    return shape(entry.mark, 9, 6, 4, entry.css)


def text_width(text: str, size: float = SMALL) -> float:
    """About how wide `text` is, for deciding whether it fits: fonts differ, so a little too much."""
    return 0.6 * size * len(text)


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
