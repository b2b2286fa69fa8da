"""`verify` an accelerated model against float64, module by module, and write down what was found."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt._marks import source_type
from updp_rt._progress import steps
from updp_rt.artifacts import fingerprint, versions
from updp_rt.blocks.inspect import architecture
from updp_rt.runtime.device import environment, source_digests, source_hash
from updp_rt.runtime.dispatch import AccelerationError, Choice
from updp_rt.runtime.engines import engine_of
from updp_rt.runtime.fused import fused_modules
from updp_rt.runtime.judging import ends, exact_outputs, is_floating, judge_outputs, outputs_of, short_name
from updp_rt.runtime.site import Site
from updp_rt.verification import (
    Case,
    Certificate,
    Inputs,
    KernelRecord,
    ModelRecord,
    ModuleRecord,
    adversarial,
    judge,
    move_weights,
    neighbours,
)

# How often torch's error is drawn where rounding decides: behind a clamp, large inputs leave a few values that do not
# saturate, and their error is that of a handful. Elsewhere one draw is as good.
_DRAWS_OF_LARGE = 8


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
    there torch's error is the largest of that on them and that with inputs and weights one unit in the last place away
    (folding a norm into weights rounds them too); the first and the last sample of each such batch are compared. Then
    the logits, by the same bound, and their top-1; of several outputs the one nearest to its bound is on record.

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
    _check(merged, fast, bool(units), inputs)
    _run_once(fast, units, inputs)
    records, longest = [], 1
    for unit in _tracked(units, show_progress):
        record, length = _judge_unit(unit, merged, seed)
        records.append(record)
        longest = max(longest, length)
    plain = outputs_of(merged, inputs)
    exact, reference = exact_outputs(merged, inputs, plain)
    used = sorted({_backend(kernel.kernel) for record in records for kernel in record.kernels})
    return Certificate(
        model=ModelRecord(architecture=architecture(merged), weights_sha256=fingerprint(merged)),
        inputs=Inputs(source=source, shape=tuple(inputs.shape), sha256=_sha256(inputs), seed=seed),
        dtype=short_name(inputs.dtype),
        engine=engine_of(fast),
        reference=reference,
        environment=versions() | environment(inputs.device),
        sources={name: source_hash(name) for name in used},
        files={path: digest for name in used for path, digest in source_digests(name).items()},
        modules=records,
        logits=judge_outputs(outputs_of(fast, inputs), plain, exact, longest),
    )


@dataclass
class _Unit:
    """Part of a model that runs as one.

    Attributes:
        names: of the source's modules that it stands for, in the order they run.
        run: it, on fused operators.
        sites: its operators.
        seen: the arguments of every call in a run of the whole model.
        choices: what was chosen in that run, by problem.
        method: of the first module, and the children that it runs, where it stands for that method alone.
    """

    names: list[str]
    run: Callable[..., Tensor]
    sites: list[Site]
    seen: list[tuple[Any, ...]] = field(default_factory=list)
    choices: dict[str, Choice] = field(default_factory=dict)
    method: tuple[str, Sequence[str]] | None = None

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.names[0], *(self.method or ())[:1])))

    def sources(self, merged: nn.Module) -> list[nn.Module]:
        """What it stands for in the source model."""
        found = [merged.get_submodule(name) for name in self.names]
        return found if self.method is None else [_Method(found[0], *self.method)]


class _Method(nn.Module):
    """A method of a module, with the module's own tensors and some of its children alone, to run and copy them."""

    def __init__(self, owner: Any, method: str, children: Sequence[str]) -> None:
        super().__init__()
        self.owner = copy.copy(owner)
        self.owner._modules = {name: owner._modules[name] for name in children}
        self.method = method

    def forward(self, *args: Any) -> Any:
        return getattr(self.owner, self.method)(*args)


def _units(fast: nn.Module) -> Iterator[_Unit]:
    for name, module, fusion in fused_modules(fast):
        if fusion.rule.method == "forward":
            yield _Unit([name], module, list(fusion.sites.values()))
            continue
        # Some of a model's own layers: each site with the layers that follow it; or a method that is one operator.
        paths = [path for *_, path in fusion.members]
        units = [
            _Unit([name], site, [site], method=(fusion.rule.method, paths))
            for own, site in fusion.sites.items()
            if own not in paths
        ]
        for path in () if units else paths:
            whole = f"{name}.{path}" if name else path
            if path in fusion.sites:
                units.append(_Unit([whole], fusion.sites[path], [fusion.sites[path]]))
            elif "." not in path:
                units[-1].names.append(whole)
        yield from units


def _check(merged: nn.Module, fast: nn.Module, fused: bool, inputs: Tensor) -> None:
    if not inputs.numel():
        raise ValueError(
            f"inputs of {tuple(inputs.shape)} hold no image, so nothing can be compared: give at least one"
        )
    if not fused:
        raise ValueError("nothing is fused in the second model: give what updp_rt.accelerate returned")
    if any(True for _ in fused_modules(merged)):
        raise ValueError("the first model is accelerated too: give the model it was made of, or updp_rt.restore(fast)")
    if merged.training or fast.training:
        raise ValueError("models are verified as they serve: call .eval() on both")
    if fingerprint(merged) != fingerprint(fast):
        raise ValueError("the two models hold different weights, so their kernels cannot be compared: accelerate again")


def _run_once(fast: nn.Module, units: list[_Unit], inputs: Tensor) -> None:
    """Fill `seen` and `choices` of all units by one run of the model."""
    recorded = []
    with ExitStack() as stack:
        for unit in units:
            recorded += [(unit, stack.enter_context(site.recorded())) for site in unit.sites]
            if isinstance(unit.run, nn.Module):
                hook = unit.run.register_forward_pre_hook(partial(_keep, unit.seen))
                stack.callback(hook.remove)
        fast(inputs)
        for unit in units:
            if isinstance(unit.run, Site):
                unit.seen += unit.run.seen or []
    for unit, choices in recorded:
        unit.choices |= choices


def _keep(seen: list[tuple[Any, ...]], module: nn.Module, args: tuple[Any, ...]) -> None:
    seen.append(tuple(a.clone() if isinstance(a, Tensor) else a for a in args))


def _judge_unit(unit: _Unit, merged: nn.Module, seed: int) -> tuple[ModuleRecord, int]:
    sources = unit.sources(merged)
    length = max((choice.problem.sum_length for choice in unit.choices.values()), default=1)
    run_plain, run_exact = _chain(sources), _chain([copy_model(module).double() for module in sources])
    cases: list[Case] = []
    for index, args in enumerate(unit.seen):
        others = adversarial(args, run_plain, seed) if index == 0 else ()
        for kind, given in (("seen", args), *others):
            # Of adversarial batches the first and the last sample: float64 takes by far the most time.
            keep = _whole if kind == "seen" else ends
            few = tuple(keep(a) if is_floating(a) else a for a in given)
            plain = [keep(run_plain(*given))]
            if kind != "seen":
                draws = range(_DRAWS_OF_LARGE if kind == "large" else 1)
                plain += [_chain(_moved(sources, seed + draw))(*neighbours(few, seed + draw)) for draw in draws]
            exact = run_exact(*(a.double() if is_floating(a) else a for a in few))
            cases.append(judge(kind, keep(unit.run(*given)), plain, exact, length))
    record = ModuleRecord(
        name=unit.name,
        source=source_type(merged.get_submodule(unit.names[0])).__name__,
        replaces=unit.names[1:],
        kernels=[
            KernelRecord(problem=part.problem.key, kernel=part.candidate, source=source_hash(_backend(part.candidate)))
            for choice in unit.choices.values()
            for part in choice.parts or (choice,)
        ],
        cases=cases,
    )
    return record, length


def _moved(modules: list[nn.Module], seed: int) -> list[nn.Module]:
    """Copies with each weight moved by one unit in the last place."""
    copies = [copy_model(module) for module in modules]
    for module in copies:
        move_weights(module, seed)
    return copies


def _chain(modules: list[nn.Module]) -> Any:
    first, *rest = modules

    def run(*args: Any) -> Any:
        y = first(*(a for a in args if a is not None))
        for module in rest:
            y = module(y)
        return y

    return run


def _tracked(units: list[_Unit], show: bool) -> Iterator[_Unit]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    told = steps(units, "verifying")
    yield from track(told, "verifying", len(units), console=console, disable=not show, transient=True)


def _whole(x: Tensor) -> Tensor:
    return x


def _backend(candidate: str) -> str:
    return candidate.partition(":")[0]


def _sha256(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()
