"""The one error of the merging algebra."""


class MergeError(ValueError):
    """A layer that cannot be merged exactly: which one, and why."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"cannot merge {layer}: {reason}")
        self.layer = layer
        self.reason = reason
