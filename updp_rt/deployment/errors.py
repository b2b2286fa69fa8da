"""The one error of exports."""


class ExportError(ValueError):
    """A model that cannot be exported so: why, and what to do. Nothing was written."""
