"""The manifest beside the weights: what to build before they are loaded."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel
from pydantic_core import PydanticCustomError

from updp_rt.artifacts.preprocessing import Augmentation, Preprocessing

SCHEMA_VERSION = 4  # 1 has no `channels`, 2 no `numbers` of channels, 3 no `preprocessing`, `layers`, `tied`

Size = Annotated[int, Field(ge=0, le=1_000_000)]


_TEXT = re.compile(r"[\w.,:+ -]{0,64}")
# What timm would read a file or ask a network for, or what says where a model is and not what.
_REFUSED = {"cache_dir", "checkpoint_path", "device", "dtype", "exportable", "no_jit", "scriptable"}


def _why_not_plain(value: object, depth: int = 3) -> str | None:
    """Why a manifest does not hold `value`: it takes numbers, short texts, and short lists and mappings of such."""
    if isinstance(value, bool | None):
        return None
    if isinstance(value, int | float):
        return None if abs(value) <= 1_000_000 else "numbers are at most 1000000"
    if isinstance(value, str):
        return None if _TEXT.fullmatch(value) else "texts are names of at most 64 letters"
    if isinstance(value, list | tuple | dict) and depth > 0 and len(value) <= 1000:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return next((why for part in parts if (why := _why_not_plain(part, depth - 1))), None)
    return f"a {type(value).__name__} is not a number, a text, or a short list or mapping of such"


def _check_plain(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if (why := _why_not_plain(value)) is not None:
            raise PydanticCustomError("plain", "{name}: {why}", {"name": name[:80], "why": why})
    return values


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    for name in arguments:
        if name in _REFUSED or name.startswith("pretrained"):
            raise PydanticCustomError("argument", "{name}: not an argument that is saved", {"name": name[:80]})
    return _check_plain(arguments)


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples that constructors take."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return {key: _tuples(each) for key, each in value.items()} if isinstance(value, dict) else value


ModuleName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=512)]


class ModelArgs(RootModel[dict[str, Any]]):
    """Arguments of ``timm.create_model`` that a manifest may carry; none of them reads a file or a network."""

    root: Annotated[dict[str, Any], AfterValidator(_check_arguments)] = {}

    def given(self) -> dict[str, Any]:
        return {name: _tuples(value) for name, value in self.root.items()}


class Layer(BaseModel):
    """A plain torch layer: its kind, the arguments of its constructor, and what a Sequential holds."""

    model_config = ConfigDict(extra="forbid")

    kind: Annotated[str, Field(pattern=r"^(timm\.)?[A-Za-z0-9]{1,32}$")]
    arguments: Annotated[dict[str, Any], AfterValidator(_check_plain)] = {}
    layers: dict[ModuleName, Layer] | None = None

    def given(self) -> dict[str, Any]:
        return {name: _tuples(value) for name, value in self.arguments.items()}


class MergedForm(BaseModel):
    """The pruned body and the merged form of one block."""

    model_config = ConfigDict(extra="forbid")

    body: str
    form: str


# Ranges ``start:stop`` of channels, ascending, separated by spaces.
Ranges = Annotated[str, Field(pattern=r"^(\d{1,7}:\d{1,7}( \d{1,7}:\d{1,7})*)?$")]


class SelectedChannels(BaseModel):
    """Channels that a module takes of its input, or of every tensor of a list of inputs."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["view", "gather", "parts"]
    axis: Annotated[int, Field(ge=0, le=4)]
    width: Annotated[tuple[Size, ...], Field(min_length=1, max_length=1000)]
    take: tuple[Ranges, ...]


class PrunedChannels(BaseModel):
    """What is left of a model whose channels were pruned: by name, shapes of parameters and buffers, selections,
    and the numbers of channels that modules hold, such as ``blocks.0.attn.num_heads``.
    """

    model_config = ConfigDict(extra="forbid")

    shapes: dict[str, Annotated[tuple[Size, ...], Field(max_length=5)]]
    selections: dict[str, SelectedChannels] = {}
    numbers: dict[str, Annotated[int, Field(gt=0, le=1_000_000)]] | None = None


class Description(BaseModel):
    """What it takes to build a model again, its weights apart.

    Attributes:
        layers: layers that are not as timm builds them, by name; None where the model has none.
        settings: numbers and names that modules hold otherwise than timm sets them, such as ``bn1.eps``.
        tied: names of weights that are others', and whose.
    """

    model_config = ConfigDict(extra="forbid")

    architecture: str
    model_args: ModelArgs
    input_size: tuple[Size, Size, Size]
    blocks: dict[str, MergedForm] = {}
    channels: PrunedChannels | None = None
    layers: dict[ModuleName, Layer | None] | None = None
    settings: Annotated[dict[ModuleName, Any], AfterValidator(_check_plain)] | None = None
    tied: dict[ModuleName, ModuleName] | None = None
    preprocessing: Preprocessing | None = None


class Manifest(Description):
    """Contents of ``manifest.json``."""

    format: Literal["updp_rt"] = "updp_rt"
    schema_version: int = SCHEMA_VERSION
    weights: Annotated[str, Field(pattern=r"^model-[0-9a-f]{16}\.safetensors$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: dict[str, str]
    accuracy: float | None = None
    augmentation: Augmentation | None = None
