"""The one error of conversions."""


class ConversionError(ValueError):
    """A model or an image processor that timm has no equal of: which part, and what to do."""
