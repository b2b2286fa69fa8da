"""Merged models on disk: safetensors for the weights, a manifest for everything else."""

from __future__ import annotations

import copy
import hashlib
import platform
from pathlib import Path

import safetensors
import timm
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

import updp_rt
from updp_rt.artifacts.atomic import atomic_path, write_text
from updp_rt.artifacts.describe import build, build_meta, describe_model
from updp_rt.artifacts.errors import ArtifactError
from updp_rt.artifacts.manifest import SCHEMA_VERSION, Manifest, MergedForm, ModelArgs
from updp_rt.blocks import MergeOrigin, make_progressive, merge_model, set_lambda
from updp_rt.blocks.inspect import model_input_size
from updp_rt.reparam import MergeError

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 4 * 2**20


class _Header(BaseModel):
    """What can be read of any version's manifest."""

    format: str
    schema_version: int


def save(
    model: nn.Module, folder: str | Path, *, model_args: dict[str, object] | None = None, accuracy: float | None = None
) -> Path:
    """Write a merged (or plain timm) model to `folder`; `load` gives it back bit for bit.

    The model is built again from what the manifest will say and compared on a random image before anything is
    written, so what was saved can be loaded. An older model in `folder` is replaced at once or not at all.

    Args:
        model_args: arguments of ``timm.create_model`` beyond those that can be read off the model.
        accuracy: share of images classified right, recorded if known.

    Raises:
        ArtifactError: the model cannot be built again from timm's architecture and these arguments.
    """
    folder = Path(folder)
    name, read_off = describe_model(model)
    try:
        args = ModelArgs(**{**read_off.given(), **(model_args or {})})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ArtifactError(f"model_args cannot be saved: {_first_error(error)}") from error
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    blocks = {}
    for key, module in model.named_modules():
        origin = getattr(module, "origin", None)
        if isinstance(origin, MergeOrigin):
            blocks[key] = MergedForm(body=origin.body, form=origin.form)
    payload = save_tensors(state)
    digest = hashlib.sha256(payload).hexdigest()
    manifest = Manifest(
        architecture=name,
        model_args=args,
        input_size=model_input_size(model),
        blocks=blocks,
        weights=f"model-{digest[:16]}.safetensors",
        sha256=digest,
        versions=versions(),
        accuracy=accuracy,
    )
    _check_rebuilds(model, manifest, state)
    with atomic_path(folder / manifest.weights) as temporary:
        temporary.write_bytes(payload)
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2, exclude_none=True) + "\n")
    for stale in folder.glob("model-*.safetensors"):
        if stale.name != manifest.weights:
            stale.unlink()
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """Read a model that `save` wrote, in eval mode: same modules, same weights, same outputs.

    Raises:
        ArtifactError: nothing there, or truncated, altered, foreign, newer than this version, or inconsistent. Nothing
            is unpickled or downloaded, and no memory is taken for weights the file does not hold.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = folder / manifest.weights
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: the weights cannot be read ({error.strerror}); copy the whole folder") from error
    if hashlib.sha256(payload).hexdigest() != manifest.sha256:
        raise ArtifactError(f"{path}: truncated or altered (sha256 is not the manifest's); copy it again")
    try:
        state = load_tensors(payload)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: not a safetensors file ({error})") from error
    try:
        return _rebuild(manifest, state).to(device)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / MANIFEST}: {error}") from error


def read_manifest(folder: str | Path) -> Manifest:
    """The validated manifest of a saved model; raises `ArtifactError` as `load` does."""
    path = Path(folder) / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ArtifactError(f"{path}: larger than any manifest; not a model saved by updp_rt")
        text = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); give a folder written by updp_rt") from error
    try:
        header = _Header.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a manifest of updp_rt ({_first_error(error)})") from error
    if header.format != "updp_rt":
        raise ArtifactError(f"{path}: of format {header.format[:40]!r}, not a model saved by updp_rt")
    if header.schema_version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: of schema {header.schema_version}, newer than the {SCHEMA_VERSION} this version reads; "
            "upgrade updp_rt"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ArtifactError(f"{path}: damaged ({_first_error(error)})") from error


def versions() -> dict[str, str]:
    """Versions a saved model or a bug report should name."""
    return {
        "updp_rt": updp_rt.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def _rebuild(manifest: Manifest, state: dict[str, Tensor]) -> nn.Module:
    # Shapes first, without memory: a manifest that asks for more than the file holds must not allocate it.
    skeleton = _merged_skeleton(build_meta(manifest.architecture, manifest.model_args), manifest)
    expected = {key: tuple(value.shape) for key, value in skeleton.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if expected != found:
        odd = next(key for key in [*expected, *found] if expected.get(key) != found.get(key))
        raise ArtifactError(
            f"the weights are not those of this architecture: {odd} is {found.get(odd, 'missing')}, "
            f"{expected.get(odd, 'nothing')} was expected"
        )
    model = _merged_skeleton(build(manifest.architecture, manifest.model_args), manifest)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _merged_skeleton(model: nn.Module, manifest: Manifest) -> nn.Module:
    """The model with merged blocks in their places, by merging whatever weights it has."""
    if not manifest.blocks:
        return model
    try:
        subnet = make_progressive(model, {name: block.body for name, block in manifest.blocks.items()})
        set_lambda(subnet, 1.0)
        return merge_model(subnet, {name: block.form for name, block in manifest.blocks.items()})
    except (MergeError, ValueError) as error:
        raise ArtifactError(f"its blocks cannot be merged so: {error}") from error


@torch.no_grad()
def _check_rebuilds(model: nn.Module, manifest: Manifest, state: dict[str, Tensor]) -> None:
    advice = "pass the arguments it was created with as model_args"
    try:
        again = _rebuild(manifest, state)
    except ArtifactError as error:
        raise ArtifactError(f"this model could not be loaded again: {error}; {advice}") from error
    here = copy.deepcopy(model).cpu().eval()
    dtype = next(here.parameters()).dtype
    image = torch.randn(1, *manifest.input_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    if not torch.equal(here(image), again(image)):
        raise ArtifactError(
            f"timm's {manifest.architecture} with {manifest.model_args.given()} computes something else: {advice}"
        )


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"][:4])
    return f"{place}: {first['msg']}" if place else first["msg"]
