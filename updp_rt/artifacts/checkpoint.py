"""Weights from elsewhere: safetensors, or a state_dict written by ``torch.save``. Nothing else is unpickled."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor, nn

from updp_rt.artifacts.errors import ArtifactError
from updp_rt.blocks.inspect import architecture

# Where training scripts keep a model's weights in what they save, averaged weights first, as timm reads them.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
_DAMAGED = "truncated or damaged: copy or download it again"
_WEIGHTS = "give a file of weights: safetensors, or torch.save(model.state_dict(), FILE)"


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights in a file into `model`, which stays as it was if they do not fit.

    Averaged weights are taken if the file has both; prefixes of wrappers (``module.``, ``_orig_mod.``, and any that all
    names share, such as Lightning's ``model.``) are removed.

    Raises:
        ArtifactError: not a file of weights, a damaged one, weights of another model, or not all finite. The message
            says what the file is and what to do.
    """
    path = Path(path)
    state = _strip(read_weights(path), model)
    _check_fits(path, state, model)
    for name in (*dict(model.named_parameters()), *(name for name in state if "running_" in name)):
        if name in state and not state[name].isfinite().all():
            raise ArtifactError(
                f"{path}: {name} holds values that are not finite: the training that wrote it diverged; "
                "give an earlier checkpoint"
            )
    model.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name, on the CPU; raises `ArtifactError` as `load_checkpoint` does."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such checkpoint") from error
    except IsADirectoryError as error:
        raise ArtifactError(f"{path}: a folder; {_WEIGHTS}") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise ArtifactError(f"{path}: empty; copy or download it again")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith((b"PK", b"\x80")):
        return _choose(path, _read_torch(path))
    if start.startswith(b"version https://git-lfs"):
        raise ArtifactError(f"{path}: a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")
    raise ArtifactError(f"{path}: not a checkpoint; {_WEIGHTS}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: a safetensors file, {_DAMAGED} ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_archive(path, archive)
        # Opened here, since torch.load goes by the file's name. timm's training script saves its arguments too.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except ArtifactError:
        raise
    except (EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: {_DAMAGED}") from error
    except (RuntimeError, pickle.UnpicklingError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: {_why_refused(str(error))}") from error


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    names = [Path(name).name for name in archive.namelist()]
    if "constants.pkl" in names:
        keep = "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        raise ArtifactError(f"{path}: a TorchScript program; keep its weights alone: {keep}")
    if "data.pkl" not in names:
        raise ArtifactError(f"{path}: an archive without a state_dict; {_WEIGHTS}")
    if archive.testzip() is not None:  # torch does not compare checksums
        raise ArtifactError(f"{path}: {_DAMAGED} (a checksum in it is wrong)")


def _why_refused(error: str) -> str:
    """What kind of file torch refuses with this message."""
    held = re.search(r"GLOBAL ([\w.]+)", error)
    if held is not None:
        return (
            f"holds pickled objects ({held[1]}, such as a whole model), and reading them would run code from the file. "
            "If you trust it, keep its weights alone: torch.save(torch.load(FILE, weights_only=False).state_dict(), "
            "NEW_FILE)"
        )
    if any(word in error for word in ("central directory", "unexpected EOF", "corrupted")):
        return _DAMAGED
    return f"not written by torch.save, or damaged; {_WEIGHTS}"


def _choose(path: Path, found: Any) -> dict[str, Tensor]:
    """The state_dict in what was saved."""
    if isinstance(found, dict):
        chosen = next((found[key] for key in _KEYS if isinstance(found.get(key), dict)), found)
        if chosen and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in chosen.items()):
            return clean_state_dict(chosen)
        held = ", ".join(str(key)[:40] for key in list(chosen)[:5]) or "nothing"
        raise ArtifactError(f"{path}: no state_dict of tensors in it (it holds {held}); {_WEIGHTS}")
    raise ArtifactError(f"{path}: holds a {type(found).__name__}, not a state_dict; {_WEIGHTS}")


def _strip(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` without a prefix that all its names share and none of the model's names has."""
    prefix = next(iter(state)).partition(".")[0] + "."
    if hasattr(model, prefix[:-1]) or not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _check_fits(path: Path, state: dict[str, Tensor], model: nn.Module) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    odd = [name for name in dict.fromkeys([*wanted, *found]) if wanted.get(name) != found.get(name)]
    if not odd:
        return
    name = architecture(model)
    if not wanted.keys() & found.keys():
        raise ArtifactError(f"{path}: weights of another model than {name}: it has no {next(iter(found))}")
    first = next((each for each in odd if each in wanted and each in found), odd[0])
    more = f", and {len(odd) - 1} more differ" if len(odd) > 1 else ""
    advice = "give a checkpoint of this model"
    if all(each.rpartition(".")[0] == first.rpartition(".")[0] for each in odd) and first in wanted and first in found:
        advice += f", or create it with num_classes={found[first][0]}"
    raise ArtifactError(
        f"{path}: its weights do not fit {name}: {first} is {found.get(first, 'missing')}, "
        f"{wanted.get(first, 'nothing')} was expected{more}; {advice}"
    )
