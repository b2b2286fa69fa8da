"""transformers' image models as timm's, which are pruned and accelerated, and back."""

from updp_rt.conversion.convert import from_transformers, to_transformers
from updp_rt.conversion.errors import ConversionError
from updp_rt.conversion.wrapper import as_transformers

__all__ = ["ConversionError", "as_transformers", "from_transformers", "to_transformers"]
