"""Pruned models on disk: safetensors for the weights, a manifest for everything else."""

from __future__ import annotations

import hashlib
import platform
from contextlib import suppress
from pathlib import Path

import safetensors
import timm
import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

import updp_rt
from updp_rt.artifacts.atomic import atomic_path, write_text
from updp_rt.artifacts.describe import describe_model, rebuild
from updp_rt.artifacts.errors import ArtifactError, first_error
from updp_rt.artifacts.manifest import SCHEMA_VERSION, Manifest
from updp_rt.artifacts.preprocessing import Augmentation
from updp_rt.artifacts.weights import cpu_state

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 4 * 2**20


class _Header(BaseModel):
    """What can be read of any version's manifest."""

    format: str
    schema_version: int


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    model_args: dict[str, object] | None = None,
    input_size: tuple[int, int, int] | None = None,
    accuracy: float | None = None,
    augmentation: Augmentation | None = None,
) -> Path:
    """Write a timm model, merged or not, its channels pruned or not, to `folder`; `load` gives it back bit for bit.

    The model is built again from what the manifest will say and compared on a random image before anything is
    written, so what was saved can be loaded. An older model in `folder` is replaced at once or not at all.

    Args:
        model_args: arguments of ``timm.create_model`` beyond those that can be read off the model.
        input_size: ``(channels, height, width)`` of the images it is for, recorded; the model's own by default.
        accuracy: share of images classified right, recorded if known.
        augmentation: what was done to its training images, recorded if known.

    Raises:
        ArtifactError: the model cannot be built again from timm's architecture and these arguments.
        WriteError: the files cannot be written, as on a full disk; then nothing in `folder` has changed.
    """
    folder = Path(folder)
    description = describe_model(model, model_args)
    state = {key: value for key, value in cpu_state(model).items() if key not in (description.tied or {})}
    payload = save_tensors(state)
    digest = hashlib.sha256(payload).hexdigest()
    manifest = Manifest(
        **{**dict(description), "input_size": input_size or description.input_size},
        weights=f"model-{digest[:16]}.safetensors",
        sha256=digest,
        versions=versions(),
        accuracy=accuracy,
        augmentation=augmentation,
    )
    weights, fresh, known = folder / manifest.weights, not folder.exists(), (folder / manifest.weights).exists()
    try:
        with atomic_path(weights) as temporary:
            temporary.write_bytes(payload)
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2, exclude_none=True) + "\n")
    except BaseException:
        with suppress(OSError):
            if not known:
                weights.unlink(missing_ok=True)
            if fresh:
                folder.rmdir()
        raise
    for stale in folder.glob("model-*.safetensors"):
        if stale != weights:
            stale.unlink()
    return folder


@torch.inference_mode(False)  # whoever calls, the weights are ordinary ones
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
        return rebuild(manifest, state).to(device)
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
        raise ArtifactError(f"{path}: not a manifest of updp_rt ({first_error(error)})") from error
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
        raise ArtifactError(f"{path}: damaged ({first_error(error)})") from error


def versions() -> dict[str, str]:
    """Versions a saved model or a bug report should name."""
    return {
        "updp_rt": updp_rt.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
