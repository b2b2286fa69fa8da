"""`verify` an accelerated model against float64, module by module, and write down what was found."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt.artifacts import fingerprint, versions
from updp_rt.blocks.inspect import architecture
from updp_rt.runtime.device import environment, kernel_hash
from updp_rt.runtime.dispatch import AccelerationError, Choice
from updp_rt.runtime.fused import fused_modules
from updp_rt.verification import (
    Case,
    Certificate,
    Inputs,
    KernelRecord,
    ModelRecord,
    ModuleRecord,
    adversarial,
    judge,
    judge_logits,
    neighbours,
)


class VerificationError(AccelerationError):
    """A fused model that does not compute what its source does. `certificate` holds the figures."""

    def __init__(self, certificate: Certificate) -> None:
        worst = certificate.worst()
        figures = ""
        if worst is not None:
            name, case = worst
            figures = f" ({name}, {case.inputs} inputs: error {case.error:.1e}, bound {case.bound:.1e})"
        super().__init__(
            f"the accelerated model is not equivalent to its source: {', '.join(certificate.failed)} failed{figures}; "
            "leave the backend at fault out with backends=[...], and report it"
        )
        self.certificate = certificate


@torch.no_grad()
def verify(
    merged: nn.Module,
    fast: nn.Module,
    inputs: Tensor,
    *,
    seed: int = 0,
    source: str = "given",
    show_progress: bool = False,
) -> Certificate:
    """Compare an accelerated model with the model it was made of, in float64, and return the certificate.

    Every fused module is run on the inputs it really sees when `fast` runs on `inputs`, and on adversarial ones of the
    same shape (`updp_rt.verification.adversarial`), beside torch's own operators in the same dtype and in float64. It
    passes if no value is further off than twice the largest error of torch's own, plus ``eps * sqrt(K) * max|y|``
    (K: the longest sum in the module). Adversarial inputs may lie where rounding decides (large ones at a clamp), so
    there torch's error is the larger of that on them and that on inputs one unit in the last place away; the first
    and the last sample of each such batch are compared. Then the logits, by the same bound, and their top-1.

    Args:
        merged: the source model, in eval mode; merged or not. It is left untouched.
        fast: what `accelerate` made of it.
        inputs: images ``[N, C, H, W]`` in the model's dtype, on its device: the shape that is certified.
        seed: of the adversarial inputs.
        source: where the images are from, for the record.
        show_progress: show a progress bar.

    Returns:
        The certificate, passed or not: see its `passed` and `failed`; ``save(path)`` writes it as JSON.

    Raises:
        ValueError: `fast` is not accelerated, holds other weights than `merged`, or one of them is in train mode.
    """
    units = list(_units(fast))
    _check(merged, fast, bool(units))
    seen, choices = _seen(fast, units, inputs)
    records, longest = [], 1
    for unit in _tracked(units, show_progress):
        record, length = _judge_unit(unit, merged, fast, seen[unit.name], choices[unit.name], seed)
        records.append(record)
        longest = max(longest, length)
    exact = copy.deepcopy(merged).double()(inputs.double())
    device = inputs.device
    return Certificate(
        model=ModelRecord(architecture=architecture(merged), weights_sha256=fingerprint(merged)),
        inputs=Inputs(source=source, shape=tuple(inputs.shape), sha256=_sha256(inputs), seed=seed),
        dtype=_short(inputs.dtype),
        environment=versions() | environment(device),
        sources={name: kernel_hash(name) for name in sorted({_backend(k.kernel) for r in records for k in r.kernels})},
        modules=records,
        logits=judge_logits(fast(inputs), merged(inputs), exact, longest),
    )


@dataclass(frozen=True)
class _Unit:
    """A fused module, and the names of those beside it whose work it does too."""

    name: str
    module: Any
    followers: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.followers)


def _units(fast: nn.Module) -> Iterator[_Unit]:
    names = {id(module): name for name, module in fast.named_modules()}
    for name, module in fused_modules(fast):
        inside = {id(m) for m in module.modules()}
        beside = [m for _, _, m in module.fusion.members if id(m) not in inside]
        within = {id(child) for m in beside for child in m.children()}
        yield _Unit(name, module, tuple(names[id(m)] for m in beside if id(m) not in within))


def _check(merged: nn.Module, fast: nn.Module, fused: bool) -> None:
    if not fused:
        raise ValueError("nothing is fused in the second model: give what updp_rt.accelerate returned")
    if any(True for _ in fused_modules(merged)):
        raise ValueError("the first model is accelerated too: give the model it was made of, or updp_rt.restore(fast)")
    if merged.training or fast.training:
        raise ValueError("models are verified as they serve: call .eval() on both")
    if fingerprint(merged) != fingerprint(fast):
        raise ValueError("the two models hold different weights, so their kernels cannot be compared: accelerate again")


def _seen(
    fast: nn.Module, units: list[_Unit], inputs: Tensor
) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, dict[str, Choice]]]:
    """The arguments of every call of each unit in one run of the model, and the kernels chosen in it."""
    seen: dict[str, list[tuple[Any, ...]]] = {unit.name: [] for unit in units}

    def keep(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        seen[name].append(tuple(a.clone() if isinstance(a, Tensor) else a for a in args))

    hooks = [unit.module.register_forward_pre_hook(partial(keep, unit.name)) for unit in units]
    try:
        with _recorded(units) as choices:
            fast(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, choices


@contextmanager
def _recorded(units: list[_Unit]) -> Iterator[dict[str, dict[str, Choice]]]:
    """By unit, the choices of its operators for the calls made inside."""
    found: dict[str, dict[str, Choice]] = {unit.name: {} for unit in units}
    with ExitStack() as stack:
        used = [
            (unit.name, stack.enter_context(site.recorded()))
            for unit in units
            for site in unit.module.fusion.sites.values()
        ]
        yield found
        for name, choices in used:
            found[name] |= choices


def _judge_unit(
    unit: _Unit,
    merged: nn.Module,
    fast: nn.Module,
    seen: list[tuple[Any, ...]],
    choices: dict[str, Choice],
    seed: int,
) -> tuple[ModuleRecord, int]:
    sources = [merged.get_submodule(name) for name in unit.names]
    length = max((choice.problem.sum_length for choice in choices.values()), default=1)
    run_fast = _chain([fast.get_submodule(name) for name in unit.names])
    run_plain, run_exact = _chain(sources), _chain([copy.deepcopy(module).double() for module in sources])
    cases: list[Case] = []
    for index, args in enumerate(seen):
        others = adversarial(args, run_plain, seed) if index == 0 else ()
        for kind, given in (("seen", args), *others):
            plain = [run_plain(*given)]
            # Of adversarial batches the first and the last sample: float64 takes by far the most time.
            keep = _whole
            if kind != "seen":
                plain.append(run_plain(*neighbours(given, seed)))
                keep = _ends
            exact = run_exact(*(keep(a.double()) if _is_floating(a) else a for a in given))
            cases.append(judge(kind, keep(run_fast(*given)), [keep(y) for y in plain], exact, length))
    record = ModuleRecord(
        name=unit.name,
        source=type(sources[0]).__name__,
        replaces=list(unit.followers),
        kernels=[
            KernelRecord(problem=key, kernel=choice.candidate, source=kernel_hash(_backend(choice.candidate)))
            for key, choice in choices.items()
        ],
        cases=cases,
    )
    return record, length


def _chain(modules: list[nn.Module]) -> Any:
    first, *rest = modules

    def run(*args: Any) -> Tensor:
        y = first(*args)
        for module in rest:
            y = module(y)
        return y

    return run


def _tracked(units: list[_Unit], show: bool) -> Iterator[_Unit]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(units, "verifying", console=console, disable=not show, transient=True)


def _whole(x: Tensor) -> Tensor:
    return x


def _ends(x: Tensor) -> Tensor:
    return x if len(x) < 3 or x.dim() < 2 else x[[0, -1]]


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _backend(candidate: str) -> str:
    return candidate.partition(":")[0]


def _sha256(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
