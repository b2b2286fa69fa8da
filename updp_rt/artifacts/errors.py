"""The one error of saved models."""

from pydantic import ValidationError


class ArtifactError(ValueError):
    """A saved model that cannot be written or read: which file, what was wrong, and what to do."""


def first_error(error: ValidationError) -> str:
    """The first of a validation's errors in one line: which field, and what is wrong with it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:4])
    return f"{place}: {first['msg']}" if place else first["msg"]
