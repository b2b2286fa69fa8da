"""The manifest beside the weights: what to build before they are loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from updp_rt.artifacts.preprocessing import Augmentation, Preprocessing

SCHEMA_VERSION = 4  # 1 has no `channels`, 2 no `numbers` of channels, 3 no `preprocessing`

Size = Annotated[int, Field(ge=0, le=1_000_000)]


class ModelArgs(BaseModel):
    """Arguments of ``timm.create_model`` that a manifest may carry; none of them reads a file or a network."""

    model_config = ConfigDict(extra="forbid")

    num_classes: Size | None = None
    in_chans: Size | None = None
    img_size: tuple[Size, Size] | None = None
    patch_size: Size | None = None
    global_pool: Annotated[str, Field(pattern=r"^[a-z]{0,16}$")] | None = None
    act_layer: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")] | None = None
    class_token: bool | None = None
    reg_tokens: Size | None = None
    init_values: float | None = None
    embed_dim: Size | None = None
    depth: Size | None = None
    num_heads: Size | None = None
    depths: tuple[Size, ...] | None = None
    dims: tuple[Size, ...] | None = None
    conv_mlp: bool | None = None

    def given(self) -> dict[str, object]:
        return self.model_dump(exclude_none=True)


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
    """What it takes to build a model again, its weights apart."""

    model_config = ConfigDict(extra="forbid")

    architecture: str
    model_args: ModelArgs
    input_size: tuple[Size, Size, Size]
    blocks: dict[str, MergedForm] = {}
    channels: PrunedChannels | None = None
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
