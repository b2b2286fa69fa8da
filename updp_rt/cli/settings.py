"""Settings of a run: options of their own, ``--set NAME=VALUE`` for the others, and a file below both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from updp_rt.pruning.config import GOALS

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def read_settings(
    kind: type[SettingsT],
    options: Mapping[str, Any],
    settings: Sequence[str],
    file: Path | None = None,
    written: Mapping[str, Any] = MappingProxyType({}),
) -> SettingsT:
    """Settings of `kind`.

    Args:
        options: by field the value of the option of that name; None where it was not given.
        settings: further ones, as ``NAME=VALUE``.
        file, written: where settings are written that count unless others are given, and which.

    Raises:
        ValueError: what was given for which option, and what it takes; an unknown setting, with those there are.
    """

    further: dict[str, str] = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {setting!r}")
        if name not in kind.model_fields:
            near = get_close_matches(name, kind.model_fields, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--set {name}: no such setting; {guess}there are {', '.join(kind.model_fields)}")
        further[name] = value

    given = {name: value for name, value in options.items() if value is not None}
    here = {**given, **further}

    def shown(field: str) -> str:
        if field in written and field not in here:
            return f"{file}: {field}"
        return f"--{field.replace('_', '-')}" if field in options and field not in further else f"--set {field}"

    if any(goal in here for goal in GOALS):  # that of the command line, if it has any
        written = {name: value for name, value in written.items() if name not in GOALS}
    try:
        return kind.model_validate({**written, **here})
    except ValidationError as error:
        fields = re.compile(rf"\b({'|'.join(kind.model_fields)})\b")
        found = []
        for each in error.errors(include_url=False):
            what = each["msg"].removeprefix("Value error, ")
            if each["loc"]:
                what = f"{shown(str(each['loc'][0]))}: {what[0].lower()}{what[1:]}, not {each['input']!r}"
            else:
                what = fields.sub(lambda match: shown(match[0]), what)
            found.append(what)
        raise ValueError("; ".join(found)) from error
