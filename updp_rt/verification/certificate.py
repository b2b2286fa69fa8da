"""The certificate: what was compared with float64, on which inputs, how far off it was, and how far it may be.

Whether something passed is always computed from its figures, never read from a file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, computed_field

from updp_rt.artifacts import ArtifactError, first_error
from updp_rt.artifacts.atomic import write_text

_LARGEST = 64 * 2**20

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    # Infinite and NaN errors stay what they are, in JSON that any reader takes.
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


class Case(_Part):
    """One comparison of a result with float64.

    Attributes:
        inputs: ``seen`` in the run of the whole model, or the adversarial kind.
        error: largest absolute error; `rms`: root mean square; `border_error`: largest on an image's outermost pixels.
        torch_error: that of torch's own operators in the same dtype, on the same inputs (adversarial ones: or with
            them and the weights moved by one unit in the last place, whichever is larger); `torch_rms` likewise.
        bound: ``2 * torch_error + eps * sqrt(K) * max|exact|``, K being the longest sum in the module.
        ulps: how many values are how many units in the last place from the rounded truth.
    """

    inputs: str
    error: float
    rms: float
    border_error: float | None
    torch_error: float
    torch_rms: float
    bound: float
    ulps: dict[str, Count]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Written so that a NaN fails."""
        return self.error <= self.bound


class KernelRecord(_Part):
    """The kernel that ran one problem, and the hash of its backend's sources."""

    problem: str
    kernel: str
    source: str


class ModuleRecord(_Part):
    """One fused module.

    Attributes:
        source: the class of the module it stands for.
        replaces: further modules, beside it, whose work it does too.
        cases: none if the inputs given never reach it.
    """

    name: str
    source: str
    replaces: list[str]
    kernels: list[KernelRecord]
    cases: list[Case]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        return all(case.passed for case in self.cases)


class Logits(_Part):
    """The whole model's outputs.

    Attributes:
        agree: samples whose top-1 is the source's.
        decided: samples whose two highest exact values are further apart than errors within the bound could close.
        disagree: those of the decided whose top-1 is not the exact one.
    """

    samples: Count
    error: float
    torch_error: float
    bound: float
    agree: Count
    decided: Count
    disagree: Count

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        return self.error <= self.bound and not self.disagree


class ModelRecord(_Part):
    """Which model: `weights_sha256` is over the names, shapes and bytes of its state."""

    architecture: str
    weights_sha256: Digest


class Inputs(_Part):
    """The images: where they are from, ``[N, C, H, W]``, their bytes' sha256, and the seed of what was drawn."""

    source: str
    shape: tuple[int, ...]
    sha256: Digest
    seed: int


class Certificate(_Part):
    """That a fused model computes what its source does, or where it does not. `save` and `load` it as JSON.

    Attributes:
        engine: what ran the whole model; its modules were judged one by one.
        reference: the precision that outputs were compared with: float64, or the highest that the model allows.
        sources: for each backend a digest of all files whose code runs for it.
        files: those files, each with its digest, by path in the package.
    """

    format: Literal["updp_rt certificate"] = "updp_rt certificate"
    schema_version: Literal[1] = 1
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    model: ModelRecord
    inputs: Inputs
    dtype: str
    engine: str = "modules"
    reference: str = "float64"
    environment: dict[str, str]
    sources: dict[str, str]
    files: dict[str, str] = Field(default_factory=dict)
    modules: list[ModuleRecord]
    logits: Logits

    @computed_field  # type: ignore[prop-decorator]
    @property
    def failed(self) -> list[str]:
        """Names of the modules that are wrong, and ``logits`` where they are."""
        return [m.name for m in self.modules if not m.passed] + ([] if self.logits.passed else ["logits"])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def unreached(self) -> list[str]:
        """Fused modules that the inputs never reach, about which nothing is certified."""
        return [module.name for module in self.modules if not module.cases]

    def worst(self) -> tuple[str, Case] | None:
        """The module and case nearest to its bound, or furthest beyond it."""
        cases = [(module.name, case) for module in self.modules for case in module.cases]
        return max(cases, key=lambda pair: _share(pair[1]), default=None)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, wholly or not at all."""
        path = Path(path)
        write_text(path, self.model_dump_json(indent=2) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read one; raises `ArtifactError` for a file that is missing, damaged or something else."""
        path = Path(path)
        try:
            if path.stat().st_size > _LARGEST:
                raise ArtifactError(f"{path}: larger than any certificate")
            text = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); updp-rt verify writes one") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ArtifactError(f"{path}: not a certificate of updp_rt, or damaged ({first_error(error)})") from error

    def __str__(self) -> str:
        reached = len(self.modules) - len(self.unreached)
        verdict = "PASSED" if self.passed else f"FAILED: {', '.join(self.failed[:5])}"
        return f"{self.model.architecture}, {self.dtype}, {reached} fused modules and the logits: {verdict}"


def _share(case: Case) -> float:
    """Error over bound, with what is not a number above all."""
    if case.error <= case.bound:
        return case.error / case.bound if case.bound else 0.0
    return float("inf") if case.error != case.error or not case.bound else case.error / case.bound
