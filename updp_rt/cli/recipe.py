"""``--config FILE``: options and settings of a run in YAML, under the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from updp_rt.cli.images import TRANSFORMS
from updp_rt.pruning.config import PruneConfig


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Expected(_Part):
    """What a recipe is expected to give: published figures say whose they are, others that nobody has measured them.

    Attributes:
        top1_lost: points of top-1 accuracy on ImageNet's validation images, against the model it starts from.
        speedup: of the merged model over that.
    """

    source: Literal["the paper", "not yet measured"]
    top1_lost: float | None = None
    speedup: float | None = None
    on: str = ""


class About(_Part):
    """What a recipe is for and what it takes; nothing of it changes a run.

    Attributes:
        exaflops: floating-point operations of all stages, see `estimate_flops`; in units of 10^18.
        tflops: what a device is assumed to sustain in training, so many 10^12 a second.
        device_hours: what follows from the two.
    """

    devices: int = Field(ge=1)
    exaflops: float = Field(gt=0)
    tflops: float = Field(gt=0)
    device_hours: float = Field(gt=0)
    expected: Expected


class RecipeFile(_Part):
    """What a file may hold beside the settings of `PruneConfig`.

    Attributes:
        pictures: what pictures go through: `TRANSFORMS`.
    """

    model: str | None = None
    data: str | None = None
    out: Path | None = None
    pretrained: bool = False
    checkpoint: Path | None = None
    num_classes: int | None = Field(default=None, ge=1)
    in_chans: int | None = Field(default=None, ge=1)
    img_size: str | None = Field(default=None, coerce_numbers_to_str=True)
    class_map: Path | None = None
    pictures: dict[str, Any] = {}
    about: About | None = None


def read_recipe(path: Path) -> tuple[RecipeFile, dict[str, Any]]:
    """What a file says: options, and settings as they stand there, which are validated with those of the command line.

    Raises:
        ValueError: a file that cannot be read, is not YAML, or has a key that is unknown, stands twice, or has a value
            that it does not take; all with the file and the key.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read ({_one_line(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"{path}: not a recipe; lines such as num_pruned: 6 were expected")
    _refuse_unknown(path, "", found, (*RecipeFile.model_fields, *PruneConfig.model_fields))
    settings = {name: found.pop(name) for name in PruneConfig.model_fields if name in found}
    try:
        options = RecipeFile.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        what = first["msg"][0].lower() + first["msg"][1:]
        raise ValueError(f"{path}: {key}: {what}, not {first['input']!r}") from error
    _refuse_unknown(path, "pictures.", options.pictures, TRANSFORMS)
    return options, settings


def _refuse_unknown(path: Path, where: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = next((key for key in found if key not in known), None)
    if unknown is None:
        return
    near = get_close_matches(unknown, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"{path}: unknown key {where}{unknown}; {guess}there are {', '.join(known)}")


def _one_line(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error)).split())


class _Loader(yaml.SafeLoader):
    """YAML without its traps: of words, `true` and `false` alone are not text, and no key may stand twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
    for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
