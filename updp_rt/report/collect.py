"""What a folder holds, read into typed parts; a part that is not there, or damaged, says so and how to make it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

import updp_rt
from updp_rt.artifacts import Manifest, fingerprint, read_manifest
from updp_rt.artifacts.describe import baseline, skeleton
from updp_rt.artifacts.errors import first_error
from updp_rt.artifacts.manifest import MergedForm
from updp_rt.artifacts.store import MANIFEST
from updp_rt.blocks.inspect import Cost, ModelReport, count_costs, inspect
from updp_rt.pruning.latency import LatencyTable
from updp_rt.pruning.run import HISTORY, LAMBDA, LATENCY, MERGED, SEARCH, SUMMARY
from updp_rt.pruning.search import SearchResult
from updp_rt.report.schema import Epoch, Identity, LambdaPoint, Profile, Summary
from updp_rt.verification import Certificate

PROFILE, CERTIFICATE, LOG, RUN = "profile.json", "certificate.json", "log.txt", "run.json"
_LARGEST = 64 * 2**20

_UNFIT = (AssertionError, RuntimeError, ZeroDivisionError)  # what timm and torch raise for sizes that don't fit

PartT = TypeVar("PartT")
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Command:
    """What makes a part: the command, and the words that lead to it."""

    line: str
    words: str = "Make it, in this folder, with"


@dataclass(frozen=True)
class Missing:
    """A part that cannot be shown: why, and what makes it."""

    reason: str
    command: Command | None = None


_PRUNE = "updp-rt prune MODEL … --out FOLDER"
_AGAIN = Command(_PRUNE, "The command that began the run goes on with it:")


@dataclass(frozen=True)
class Training:
    """Records of the supernet's and the subnet's epochs; the supernet's are empty where the log does not have them.

    `lambdas` are ``(epochs done, λ)`` in the subnet's steps.
    """

    supernet: list[Epoch]
    subnet: list[Epoch]
    lambdas: list[tuple[float, float]] | Missing


@dataclass(frozen=True)
class Certified:
    """A certificate, and what is wrong with its being this model's ("": nothing)."""

    certificate: Certificate
    doubt: str

    @property
    def state(self) -> Literal["pass", "fail", "doubt"]:
        if not self.certificate.passed:
            return "fail"
        return "doubt" if self.doubt else "pass"


@dataclass(frozen=True)
class Parts:
    """Everything a report may show of one folder.

    Attributes:
        is_run: whether the folder is a run's, rather than a saved model's.
        identity: which run it is; None for a saved model.
        structure: the baseline's blocks and their costs, and those of what they could merge into.
        costs: of every module of the saved model, by name; empty where it is not there.
        forms: body and form of every merged block.
    """

    name: str
    is_run: bool
    identity: Identity | Missing | None
    manifest: Manifest | Missing
    structure: ModelReport | Missing
    costs: dict[str, Cost]
    forms: dict[str, MergedForm] | Missing
    summary: Summary | Missing
    search: SearchResult | Missing
    latency: LatencyTable | Missing
    training: Training | Missing
    profile: Profile | Missing
    certificate: Certified | Missing

    @property
    def architecture(self) -> str:
        """timm's name of the model; `collect` sees to it that one of the two knows."""
        known = self.manifest if isinstance(self.manifest, Manifest) else self.identity
        assert isinstance(known, Manifest | Identity)
        return known.architecture


def model_folder(folder: Path) -> Path:
    """Where the saved model of a run's or a saved model's folder is; raises `ValueError` where it is neither."""
    if any((folder / name).is_file() for name in (RUN, SUMMARY)):
        return folder / MERGED
    if (folder / MANIFEST).is_file():
        return folder
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    raise ValueError(f"{folder}: neither the folder of a pruning run (run.json) nor of a saved model (manifest.json)")


def collect(folder: str | Path) -> Parts:
    """Read what `folder`, a run's or a saved model's, holds.

    Raises:
        ValueError: it is neither, or so damaged that not even the architecture is known.
    """
    folder = Path(folder)
    saved = model_folder(folder)
    is_run = saved != folder
    manifest = _part(lambda: read_manifest(saved), _AGAIN if is_run else None)
    identity = read(folder / RUN, Identity) if is_run else None
    if isinstance(manifest, Missing) and not isinstance(identity, Identity):
        raise ValueError(f"{folder}: {(identity or manifest).reason.rstrip('.')}, and no other file names the model")
    known = manifest if isinstance(manifest, Manifest) else identity
    assert isinstance(known, Manifest | Identity)
    no_run = Missing(
        "This is a saved model's folder; only a pruning run's holds it.", Command(_PRUNE, "Prune one with")
    )

    def of_run(name: str, kind: type[ModelT]) -> ModelT | Missing:
        return _read_measured(folder / name, kind, _AGAIN) if is_run else no_run

    summary = of_run(SUMMARY, Summary)
    return Parts(
        name=folder.resolve().name,
        is_run=is_run,
        identity=identity,
        manifest=manifest,
        structure=_part(lambda: _structure(identity if _agree(identity, known) else known)),
        costs=_costs(manifest),
        forms=summary.blocks if isinstance(summary, Summary) else _forms(manifest),
        summary=summary,
        search=of_run(SEARCH, SearchResult),
        latency=of_run(LATENCY, LatencyTable),
        training=_training(folder) if is_run else no_run,
        profile=_read_measured(folder / PROFILE, Profile, Command("updp-rt profile .")),
        certificate=_certificate(saved, Command(f"updp-rt verify {MERGED if is_run else '.'}")),
    )


def read(path: Path, kind: type[ModelT], command: Command | None = None) -> ModelT | Missing:
    """A JSON file as `kind`, or why it cannot be."""
    try:
        if path.stat().st_size > _LARGEST:
            return Missing(f"{path.name} is damaged: larger than any that updp_rt writes.", command)
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Missing(f"{path.name} is not there.", command)
    except OSError as error:
        return Missing(f"{path.name} cannot be read: {error.strerror}.", command)
    except ValidationError as error:
        return Missing(f"{path.name} is damaged: {first_error(error)}.", command)


def _read_measured(path: Path, kind: type[ModelT], command: Command) -> ModelT | Missing:
    """As `read`, of a file whose every number was measured: NaN or infinity in it is damage."""
    found = read(path, kind, command)
    if isinstance(found, BaseModel) and not _finite(found.model_dump()):
        return Missing(f"{path.name} is damaged: it holds NaN or infinity.", command)
    return found


def _finite(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(_finite(each) for each in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _part(make: Callable[[], PartT], command: Command | None = None) -> PartT | Missing:
    """What `make` gives, or the error of ours that it raises; paths shortened to the file's name."""
    try:
        return make()
    except ValueError as error:
        return Missing(re.sub(r"\S*/(?=[\w.]+: )", "", str(error)).rstrip(".") + ".", command)


def _agree(identity: Identity | Missing | None, known: Manifest | Identity) -> TypeGuard[Identity]:
    """Whether a run's identity can be trusted to say what its saved model was before."""
    return isinstance(identity, Identity) and (identity.architecture, identity.input_size) == (
        known.architecture,
        known.input_size,
    )


def baseline_of(known: Manifest | Identity) -> nn.Module:
    """What the saved model was before: what its run started from, or else what timm builds; with fresh weights."""
    return skeleton(known) if isinstance(known, Identity) else baseline(known)


def _structure(known: Manifest | Identity) -> ModelReport:
    try:
        return inspect(baseline_of(known), known.input_size)
    except _UNFIT as error:
        raise ValueError(f"{known.architecture} does not take images of {known.input_size}: {error}") from error


def _costs(manifest: Manifest | Missing) -> dict[str, Cost]:
    if isinstance(manifest, Missing):
        return {}
    try:
        return count_costs(skeleton(manifest), manifest.input_size)[1]
    except (ValueError, *_UNFIT):  # the structure says why
        return {}


def _forms(manifest: Manifest | Missing) -> dict[str, MergedForm] | Missing:
    return manifest.blocks if isinstance(manifest, Manifest) else manifest


def _training(folder: Path) -> Training | Missing:
    subnet = _rows(folder / HISTORY, Epoch)
    if isinstance(subnet, Missing):
        return subnet
    return Training(_supernet(folder / LOG), subnet, _lambdas(folder / LAMBDA, subnet[-1]))


def _lambdas(path: Path, last: Epoch) -> list[tuple[float, float]] | Missing:
    points = _rows(path, LambdaPoint)
    if isinstance(points, Missing):
        return points
    if points[-1].step + 1 != last.step:
        return Missing(f"{path.name} is damaged: it does not end where {HISTORY} does.", _AGAIN)
    return [(point.step * last.epoch / last.step, point.lam) for point in points]


def _rows(path: Path, kind: type[ModelT]) -> list[ModelT] | Missing:
    """The rows of a CSV file that a run leaves."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = [kind.model_validate(row) for row in csv.DictReader(io.StringIO(text))]
    except FileNotFoundError:
        return Missing(f"{path.name} is not there.", _AGAIN)
    except OSError as error:
        return Missing(f"{path.name} cannot be read: {error.strerror}.", _AGAIN)
    except (UnicodeDecodeError, csv.Error) as error:
        return Missing(f"{path.name} is damaged: {error}.", _AGAIN)
    except ValidationError as error:
        return Missing(f"{path.name} is damaged: {first_error(error)}.", _AGAIN)
    if not rows or not text.endswith("\n"):
        return Missing(f"{path.name} is damaged: {'cut short' if rows else 'it holds no row'}.", _AGAIN)
    return rows


def _supernet(log: Path) -> list[Epoch]:
    """The supernet's losses, which the log alone keeps; of an epoch that was trained twice the last."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.findall(r"  supernet: epoch (\d+), step \d+, loss (\d[\d.e+-]*)$", text, re.MULTILINE)
    epochs = {int(epoch): Epoch(epoch=int(epoch), loss=float(loss), **{"lambda": None}) for epoch, loss in found}
    return [epochs[number] for number in sorted(epochs)]


def _certificate(saved: Path, command: Command) -> Certified | Missing:
    found = read(saved / CERTIFICATE, Certificate, command)
    if isinstance(found, Missing):
        return found
    try:
        weights = fingerprint(updp_rt.load(saved).to(getattr(torch, found.dtype)))
    except (ValueError, AttributeError):
        return Certified(found, "The saved model is missing or damaged, so this cannot be said to be its certificate.")
    if weights != found.model.weights_sha256:
        return Certified(found, "It is of other weights than the saved model has now. Make it again.")
    return Certified(found, "")


def profile_doubt(profile: Profile, manifest: Manifest | Missing) -> str:
    """What is wrong with a profile's being of the saved model ("": nothing)."""
    if isinstance(manifest, Manifest) and manifest.sha256 != profile.weights:
        return (
            "It was measured on other weights than the saved model has now; speed does not depend on them, forms may."
        )
    return ""
