"""`swap`: a model in service runs accelerated from one request to the next, and back, while requests come in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from updp_rt._copies import share_tensors
from updp_rt.runtime.certify import VerificationError, verify
from updp_rt.runtime.engines.base import EngineState, attach, state_of
from updp_rt.runtime.judging import Judge
from updp_rt.runtime.lowering import accelerate
from updp_rt.verification import Certificate

_log = logging.getLogger("updp_rt")
_attaching = threading.Lock()


@dataclass(frozen=True)
class Swapped:
    """What runs in place of a model.

    Attributes:
        fast: the accelerated twin, for `explain` and `prewarm`. It has the model's own weights.
        certificates: of the twin, one for each example.
    """

    fast: nn.Module
    certificates: tuple[Certificate, ...]


class _Twin(EngineState):
    """Runs a model by its accelerated twin, as long as both are the same."""

    engine = "swapped"

    def __init__(self, model: nn.Module, fast: nn.Module) -> None:
        super().__init__(model)
        self.fast = fast
        self._told = False

    def key(self, x: Tensor) -> Any:
        return None  # the twin takes whatever the model takes

    def watch(self) -> None:
        super().watch()
        self._held = list(map(id, self._tensors()))  # the twin holds them too, so no id is given to another

    def prepare(self, example: Tensor, judge: Judge | None = None) -> None:
        self.ready.add(self.key(example))

    def run(self, x: Tensor) -> Any:
        return self.fast(x)

    def changed(self) -> bool:
        changed = super().changed()
        if changed and not self._told:
            self._told = True
            _log.warning(
                "%s was changed after updp_rt.swap, so its own modules run: restore it and swap again",
                type(self.model).__name__,
            )
        return changed

    def _forms_hold(self) -> bool:
        """Whether the model holds the tensors that its twin holds; new values in them are the twin's as well."""
        return list(map(id, self._tensors())) == self._held


def swap(model: nn.Module, example_input: Tensor | Sequence[Tensor], **options: Any) -> Swapped:
    """Have `model`, which may be serving requests in other threads, run accelerated from its next call on.

    A twin that shares its weights is accelerated and verified while the model goes on serving; then one assignment puts
    it in place. Each call runs on the one or on the other, none on both. ``updp_rt.restore(model, inplace=True)`` goes
    back in the same way. Calls that want a gradient, or come under hooks or autocast, in train mode, or after a layer
    was replaced run by the model's own modules; new values of weights are followed. What is called past ``model(x)``,
    such as ``model.forward_features``, is not accelerated.

    Args:
        model: in eval mode.
        example_input: as of `accelerate`: images as they are served, one tensor for each shape.
        options: of `accelerate`.

    Returns:
        The twin and its certificates.

    Raises:
        ValueError: the model is swapped or accelerated already, or cannot be accelerated.
        AccelerationError: as `accelerate`.
        VerificationError: the twin's results are further from float64 than the bound. The model is as it was.
    """
    examples = [example_input] if isinstance(example_input, Tensor) else list(example_input)
    _check_free(model)
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "weights made under torch.inference_mode() keep no record of updates, so the twin could not follow them: "
            "create or load the model outside inference_mode"
        )
    fast = accelerate(share_tensors(model), examples, inplace=True, **options)
    source = share_tensors(model)
    certificates = tuple(verify(source, fast, example) for example in examples)
    for certificate in certificates:
        if not certificate.passed:
            raise VerificationError(certificate)
    twin = _Twin(model, fast)
    with _attaching:
        _check_free(model)
        attach(model, twin)
    twin.prepare(examples[0])
    return Swapped(fast, certificates)


def _check_free(model: nn.Module) -> None:
    if state_of(model) is not None:
        raise ValueError("this model runs on an engine already: updp_rt.restore(model, inplace=True) first")
