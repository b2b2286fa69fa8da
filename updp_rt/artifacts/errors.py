"""The one error of saved models."""


class ArtifactError(ValueError):
    """A saved model that cannot be written or read: says which file, what was wrong, and what to do."""
