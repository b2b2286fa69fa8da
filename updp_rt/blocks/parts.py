"""What becomes of a pruned block beside its neighbours.

That is told by its `Part`: beside the pruned body, whether the activation before the block is gone, whether the block
shares its convolution with the block before, and which of its own convolutions are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

APART, LINEAR, JOINED = "", "|", "+"
# Bodies of a part that stand for the block as a whole: it is left out, and its input goes on; or it becomes one affine
# map of every pixel or token.
SKIP, AFFINE = "skip", "affine"
WHOLE = {SKIP: "identity", AFFINE: "pointwise"}  # and the one form that each merges into


@dataclass(frozen=True)
class Part:
    """What becomes of one block of a segment.

    Attributes:
        body: its pruned body.
        link: to the block before: `APART` behind an activation, `LINEAR` without one, `JOINED` into one convolution.
        dropped: names of its convolutions that are left out: their input goes on.
    """

    body: str
    link: str = APART
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.link}{self.body}" + "".join(f"-{name}" for name in self.dropped)

    @classmethod
    def parse(cls, text: str) -> Part:
        link = text[0] if text[:1] in (LINEAR, JOINED) else APART
        body, *dropped = text.removeprefix(link).split("-")
        return cls(body, link, tuple(dropped))
