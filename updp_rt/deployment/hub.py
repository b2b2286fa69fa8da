"""Models in the Hugging Face Hub's layout: ``model.safetensors``, ``config.json``, and a model card.

The configuration is timm's, whose architecture is the one that `updp_rt.timm` registers.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import safetensors
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from updp_rt.artifacts import ArtifactError, first_error, versions
from updp_rt.artifacts.atomic import atomic_path, write_json, write_text
from updp_rt.artifacts.describe import describe_model, rebuild
from updp_rt.artifacts.manifest import Description
from updp_rt.artifacts.weights import cpu_state
from updp_rt.deployment.card import write_card
from updp_rt.report.collect import Parts, collect

ENTRY = "updp_rt"  # in timm's registry
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_LARGEST_CONFIG = 4 * 2**20


class _Made(BaseModel):
    """What ``config.json`` says of the weights."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    versions: dict[str, str]
    accuracy: float | None = None


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    description: Description


class _Config(BaseModel):
    """``config.json`` as far as it is read; timm reads the rest."""

    architecture: str
    model_args: _Arguments
    updp_rt: _Made


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    made_in: str | Path | None = None,
    name: str | None = None,
    accuracy: float | None = None,
    license: str | None = None,
) -> Path:
    """Write a timm model, merged or not, its channels pruned or not, to `folder` as the Hub holds models.

    `from_pretrained` gives it back bit for bit, and so does timm: ``timm.create_model("local-dir:FOLDER",
    pretrained=True)``, once `updp_rt.timm` is imported. A model card that is there already is kept.

    Args:
        made_in: the folder of the run, or of the saved model, that it is from: the card tells its accuracy, latency,
            certificate and settings.
        name: of the repository, for the card; the folder's by default.
        accuracy: share of images classified right, where no run says it.
        license: of the weights, by the Hub's name of it, such as ``apache-2.0``.

    Raises:
        ArtifactError: the model cannot be built again from timm's architecture.
        WriteError: the files cannot be written.
        ValueError: `made_in` is no such folder.
    """
    folder = Path(folder)
    description = describe_model(model)
    parts = None if made_in is None else collect(made_in)
    if parts is not None and parts.architecture != description.architecture:
        raise ArtifactError(f"{made_in}: of a {parts.architecture}, and the model is a {description.architecture}")
    if accuracy is None:
        accuracy = _accuracy(parts)
    state = {key: value for key, value in cpu_state(model).items() if key not in (description.tied or {})}
    payload = save_tensors(state, metadata={"format": "pt"})
    made = _Made(sha256=hashlib.sha256(payload).hexdigest(), versions=versions(), accuracy=accuracy)
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(payload)
    write_json(folder / CONFIG, timm_config(model, description) | {"updp_rt": made.model_dump(exclude_none=True)})
    if not (folder / CARD).exists():
        card = write_card(name or folder.resolve().name, description, parts, accuracy=accuracy, license=license)
        write_text(folder / CARD, card)
    return folder


def from_pretrained(
    place: str | Path, *, revision: str | None = None, token: str | bool | None = None, cache_dir: str | None = None
) -> nn.Module:
    """A model that `save_pretrained` or `push_to_hub` wrote, in eval mode: same modules, same weights, same outputs.

    Args:
        place: a folder, or the name of a repository on the Hub, ``USER/NAME``, which is downloaded once; with
            ``HF_HUB_OFFLINE=1`` it is only read from the cache.
        revision, token, cache_dir: as huggingface_hub takes them.

    Raises:
        ArtifactError: nothing there, not reached, or damaged. Nothing is unpickled.
    """
    folder = Path(place) if Path(place).is_dir() else _download(str(place), revision, token, cache_dir)
    try:
        if (folder / CONFIG).stat().st_size > _LARGEST_CONFIG:
            raise ArtifactError(f"{folder / CONFIG}: larger than any configuration of a model")
        config = _Config.model_validate_json((folder / CONFIG).read_bytes())
        payload = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{error.filename}: cannot be read ({error.strerror}); give a model's folder") from error
    except ValidationError as error:
        raise ArtifactError(
            f"{folder / CONFIG}: not of a model that updp_rt wrote ({first_error(error)}); load others with timm"
        ) from error
    if hashlib.sha256(payload).hexdigest() != config.updp_rt.sha256:
        raise ArtifactError(f"{folder / WEIGHTS}: truncated or altered (sha256 is not config.json's); get it again")
    try:
        return rebuild(config.model_args.description, load_tensors(payload))
    except (safetensors.SafetensorError, KeyError) as error:
        raise ArtifactError(f"{folder / WEIGHTS}: not a safetensors file ({error})") from error


def push_to_hub(
    model: nn.Module,
    name: str,
    *,
    made_in: str | Path | None = None,
    accuracy: float | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = "Add model",
) -> str:
    """Upload a model, as `save_pretrained` writes it, to the repository `name` of the Hub, made if need be.

    Returns:
        The address of the commit.

    Raises:
        ArtifactError: as `save_pretrained`, or huggingface_hub is not installed.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses.
    """
    api = _hub().HfApi(token=token, library_name="updp_rt", library_version=versions()["updp_rt"])
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, made_in=made_in, name=name, accuracy=accuracy, license=license)
        made = api.create_repo(name, private=private, exist_ok=True)
        if api.file_exists(made.repo_id, CARD, revision=revision):
            (Path(folder) / CARD).unlink()
        done = api.upload_folder(repo_id=made.repo_id, folder_path=folder, revision=revision, commit_message=message)
    return str(done.commit_url)


def timm_config(model: Any, description: Description) -> dict[str, Any]:
    """``config.json`` of a described model as timm has it, which transformers reads too.

    JSON alone, and nothing of where the first weights were from.
    """
    of_model = getattr(model, "pretrained_cfg", None) or {}
    known = ("first_conv", "classifier", "fixed_input_size", "pool_size")
    pretrained = {key: of_model[key] for key in known if of_model.get(key) is not None}
    pretrained |= {"input_size": description.input_size, "num_classes": model.num_classes}
    if description.preprocessing is not None:
        pretrained |= description.preprocessing.model_dump()
    labels = {key: of_model[key] for key in ("label_names", "label_descriptions") if of_model.get(key) is not None}
    return {
        "architecture": ENTRY,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": {"description": description.model_dump(mode="json", exclude_none=True)},
        "pretrained_cfg": pretrained,
        **labels,
    }


def _accuracy(parts: Parts | None) -> float | None:
    return None if parts is None else getattr(parts.manifest, "accuracy", None)


def _download(name: str, revision: str | None, token: str | bool | None, cache_dir: str | None) -> Path:
    hub = _hub()
    try:
        found = hub.snapshot_download(
            name, revision=revision, token=token, cache_dir=cache_dir, allow_patterns=[CONFIG, WEIGHTS]
        )
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{name}: no such folder, and not from the Hub either ({' '.join(str(error).split())[:300]})"
        ) from error
    return Path(found)


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ArtifactError("the Hub needs huggingface_hub: pip install huggingface_hub") from error
    return huggingface_hub
