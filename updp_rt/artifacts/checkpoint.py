"""Weights from elsewhere: safetensors, or a state_dict written by ``torch.save``. Nothing else is unpickled."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from updp_rt.artifacts.errors import ArtifactError
from updp_rt.blocks.inspect import architecture

# Where training scripts keep a model's weights in what they save, averaged weights first, as timm reads them.
_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Parts of names that torch's wrappers put in, wherever they stand.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What scripts save beside weights and torch does not know: arguments, paths and figures, none of which runs code.
_scalar = np.float64().__reduce__()[0]
_HARMLESS: list[Any] = [
    *(argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.dtype),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # of NumPy 1 and 2
    *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")),
]
_DAMAGED = "truncated or damaged: copy or download it again"
_WEIGHTS = "give a file of weights: safetensors, or torch.save(model.state_dict(), FILE)"


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load the weights in a file into `model`, which stays as it was if they do not fit.

    They may lie within what else a script saved; averaged weights are taken if the file has both. What wrappers add to
    names (``module.``, ``_orig_mod.``) and a prefix that all of the model's names share (Lightning's ``model.``) is
    removed; what such a file holds beside the prefix, a loss's weights or a counter, is passed over.

    Raises:
        ArtifactError: not a file of weights, a damaged one, weights of another model or of several, quantised ones, or
            not all finite. The message says what the file is and what to do.
    """
    path = Path(path)
    wanted = model.state_dict()
    state = _find_weights(path, _read(path), wanted, architecture(model))
    # Files of old, and of other frameworks, lack these counts, which only a norm without momentum reads.
    counts = {name: count for name, count in wanted.items() if name.endswith("num_batches_tracked")}
    state = counts | state
    _check_fits(path, state, model)
    for name, value in state.items():
        if not wanted[name].is_floating_point():
            continue
        if not value.is_floating_point() or value.layout is not torch.strided or value.is_meta:
            kind = "without values" if value.is_meta else f"of {value.dtype}, {value.layout}".replace("torch.", "")
            raise ArtifactError(f"{path}: {name} is {kind}: give weights of dense floating-point numbers")
        if not value.isfinite().all():
            raise ArtifactError(
                f"{path}: {name} holds values that are not finite: the training that wrote it diverged; "
                "give an earlier checkpoint"
            )
    model.load_state_dict(state)


def _read(path: Path) -> Any:
    """What a file of weights holds, on the CPU; raises `ArtifactError` as `load_checkpoint` does."""
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
        return _read_torch(path)
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
        # Opened here, since torch.load goes by the file's name.
        with path.open("rb") as file, torch.serialization.safe_globals(_HARMLESS):
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
            "If you trust it, keep its weights alone: found = torch.load(FILE, weights_only=False), then torch.save "
            "the state_dict in it, or found.state_dict(), to a new file"
        )
    if any(word in error for word in ("central directory", "unexpected EOF", "corrupted")):
        return _DAMAGED
    return f"not written by torch.save, or damaged; {_WEIGHTS}"


def _find_weights(path: Path, saved: Any, wanted: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """The weights in what was saved that have names of `wanted`, by those names."""
    if not isinstance(saved, dict):
        raise ArtifactError(f"{path}: holds a {type(saved).__name__}, not a state_dict; {_WEIGHTS}")
    found = list(_state_dicts(saved))
    if not found:
        held = ", ".join(str(key)[:40] for key in list(saved)[:5]) or "nothing"
        raise ArtifactError(f"{path}: no state_dict of tensors in it (it holds {held}); {_WEIGHTS}")
    for state in found:
        prefixes = Counter(name[:at] for name in state for at in _starts(name) if name[at:] in wanted)
        (prefix, most), (other, second) = [*prefixes.most_common(2), ("", 0), ("", 0)][:2]
        if most == second == len(wanted):
            raise ArtifactError(
                f"{path}: holds several models of these names ({prefix}* and {other}*); keep the weights of one alone"
            )
        if most:
            return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    raise ArtifactError(f"{path}: weights of another model than {model}: it has no {next(iter(found[0]))}")


def _state_dicts(saved: dict[Any, Any]) -> Iterator[dict[str, Tensor]]:
    """Everything in what was saved that may be a state_dict, the usual places first."""
    order = sorted(saved, key=lambda key: _KEYS.index(key) if key in _KEYS else len(_KEYS))
    inner = [saved[key] for key in order if isinstance(saved[key], dict)]
    tensors = {key: value for key, value in saved.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    for each in inner:
        yield from _state_dicts(each)


def _starts(name: str) -> Iterator[int]:
    """Where the parts of a dotted name start."""
    yield 0
    yield from (found.end() for found in re.finditer(r"\.", name))


def _check_fits(path: Path, state: dict[str, Tensor], model: nn.Module) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    odd = [name for name in dict.fromkeys([*wanted, *found]) if wanted.get(name) != found.get(name)]
    if not odd:
        return
    name = architecture(model)
    first = next((each for each in odd if each in wanted and each in found), odd[0])
    more = f", and {len(odd) - 1} more differ" if len(odd) > 1 else ""
    advice = "give a checkpoint of this model"
    head = [each for each in wanted if each.startswith(_classifier_prefix(model))]
    if head and set(odd) <= set(head):
        if first in found:
            advice += f", or create it with num_classes={found[first][0]}"
        elif odd == head:
            advice += ", or create it with num_classes=0"
    elif "pos" in first and first in found:
        advice += ", or create it for images of the size that one was for (img_size, --img-size)"
    raise ArtifactError(
        f"{path}: its weights do not fit {name}: {first} is {found.get(first, 'missing')}, "
        f"{wanted.get(first, 'nothing')} was expected{more}; {advice}"
    )


def _classifier_prefix(model: Any) -> str:
    """What the names of the classifier's weights begin with, and no others where there is no classifier."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    return next((f"{name}." for name, module in model.named_modules() if module is head), " ")
