"""A block anywhere between its baseline (λ = 0) and its pruned form (λ = 1): one module for all four stages.

A family describes a block as a chain of steps: linear layers that both forms run, and what fades from the one
form to the other between them. Running the chain at any λ, fitting the pruned form's norms, and merging at λ = 1
are the same for every family, and live here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from updp_rt._copies import copy_model
from updp_rt.blocks.affine import affine_layer, fit_affine
from updp_rt.blocks.norms import fit_batchnorm
from updp_rt.blocks.parts import AFFINE, SKIP, WHOLE
from updp_rt.blocks.steps import Fade, Lambda, Pair, Step, fade, interior, layers_of, place_steps, stride_of
from updp_rt.reparam import AffineConv, MergeError, fold_chain, move_padding


class MergeOrigin(NamedTuple):
    """Where a merged block came from: the pruned body, and the form it was merged into."""

    body: str
    form: str


class Norms(nn.ModuleDict):
    """The norms of a block's pruned form, by name; of a block with several bodies, those of the one that it takes."""

    prefix = ""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(self.prefix + key)


class ProgressiveBlock(nn.Module, ABC):
    """Base of the four families' blocks.

    Holds the timm block (``block``, its weights shared by both forms) and the pruned form's own norms (``norms``).

    Attributes:
        lam: λ in [0, 1], how far the block is pruned; or a gate that decides it.
        body: which pruned body λ leads to, a key of `forms`, `SKIP` or `AFFINE`.
        bodies: those that `take` may set; more than one only after `offer`.
        opened: whether no activation closes the pruned form, since the next block is to be joined to it; for what
            blocks are chosen by, which never merges.
        form: the algebraically equal form `merge` gives, one of ``forms[body]``.
        forms: for each pruned body its merged forms, the usually fastest first.
    """

    forms: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(self, block: nn.Module, name: str = "block", body: str = "") -> None:
        super().__init__()
        self.block: Any = _reading_all(block)
        self.name = name
        self.body = body or next(iter(self.forms))
        self.bodies: tuple[str, ...] = (self.body,)
        self._check_bodies()
        self.norms = Norms(self._norms_of(self.body))
        self.opened = False
        self.lam: Lambda = 0.0
        for module in block.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # both sides of a fade read the same tensor
        self._settle()

    # What a family says about its block.

    @staticmethod
    def skippable(block: Any) -> bool:
        """Whether such a block adds its input, unchanged, to what it makes of it: so that it can be left out."""
        return False

    @abstractmethod
    def new_norms(self) -> dict[str, nn.Module]:
        """The BatchNorms of the pruned form, by name."""

    @abstractmethod
    def steps(self) -> list[Step]:
        """The chain between the block's head and its skip."""

    def head(self, x: Tensor) -> Tensor:
        """What comes before the chain and is kept as it is (a transformer's attention)."""
        return x

    def skip(self, x: Tensor) -> Tensor | None:
        """The branch beside the chain, or None."""
        return x

    def drop_path(self, y: Tensor) -> Tensor:
        """Stochastic depth of the chain's branch, while training."""
        return y

    @abstractmethod
    def activation(self) -> nn.Module:
        """What closes the pruned block."""

    def end(self, y: Tensor) -> Tensor:
        """What closes the baseline block; nothing, unless the family says otherwise."""
        return y

    @abstractmethod
    def build_merged(self, chain: list[AffineConv], form: str) -> nn.Module:
        """The merged block from its linear chain, norms folded and padding at its head, in plain torch modules."""

    # What is the same for every family.

    def offer(self, bodies: Sequence[str]) -> None:
        """Let the block take any of these pruned bodies; each has new norms of its own. It takes the first."""
        self.bodies = tuple(bodies)
        self._check_bodies()
        self.norms = Norms({f"{body}/{name}": norm for body in bodies for name, norm in self._norms_of(body).items()})
        self.norms.train(self.training)
        self._lead_to(self.bodies[0])

    def take(self, body: str) -> None:
        """Lead to another pruned body, with its norms and its usually fastest form.

        Raises:
            ValueError: the block was not offered that body.
        """
        if body not in self.bodies:
            raise ValueError(f"{self.name}: has norms of {', '.join(self.bodies)} alone, not of the body {body!r}")
        if body != self.body:
            self._lead_to(body)

    def _lead_to(self, body: str) -> None:
        self.body, self.norms.prefix = body, f"{body}/"
        self._settle()

    def _check_bodies(self) -> None:
        known = (*self.forms, AFFINE, *([SKIP] if self.skippable(self.block) else []))
        for body in self.bodies:
            if body not in known:
                raise ValueError(f"{self.name}: no pruned body {body!r}; choose one of {', '.join(known)}")

    def _norms_of(self, body: str) -> dict[str, nn.Module]:
        if body == SKIP:
            return {}
        norms = self.new_norms()
        if body != AFFINE:
            return norms
        self.norms = Norms(norms)  # the steps name them
        return {AFFINE: affine_layer(layers_of(self.steps()))}

    def _settle(self) -> None:
        """Take the form and the places that follow from the body."""
        self.form = self.own_forms[0]
        self._places = [] if self.body in WHOLE else place_steps(self.steps())

    @property
    def own_forms(self) -> tuple[str, ...]:
        """The merged forms of the body that it takes."""
        return (WHOLE[self.body],) if self.body in WHOLE else self.forms[self.body]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.body in WHOLE:
            return fade(self.lam, lambda: self.block(x, *args, **kwargs), lambda: self._instead()(x))
        x = self.head(x, *args, **kwargs)
        y = x
        for step, place in zip(self.steps(), self._places, strict=True):
            y = step.run(y, self.lam, place)
        y = self.drop_path(y)
        skip = self.skip(x)
        if skip is not None:
            y = y + skip
        return fade(self.lam, lambda: self.end(y), lambda: y if self.opened else self.activation()(y))

    def _instead(self) -> nn.Module:
        """What stands for the block as a whole: nothing, or an affine map, closed as the baseline block is."""
        if self.body == SKIP:
            return nn.Identity()
        layer = self.norms[AFFINE]
        closed = type(self).end is not ProgressiveBlock.end
        return nn.Sequential(layer, self.activation()) if closed else layer

    @torch.no_grad()
    def calibrate(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        """Fit the pruned form's norms to the baseline on the block's input `x`.

        Every new BatchNorm takes the statistics of what it will see at λ = 1 and the affine part that brings it
        closest, in least squares per channel, to the baseline's value at that point. So a removed activation
        starts as its best per-channel linear approximation, and an added norm starts as the identity. An affine map in
        the block's place starts as the best for all channels.
        """
        if self.body == AFFINE:
            fit_affine(self.norms[AFFINE], x, self.block(x, *args, **kwargs), adds=type(self).skippable(self.block))
        if self.body in WHOLE:
            return
        x = self.head(x, *args, **kwargs)
        baseline = pruned = x
        was_training = self.norms.training
        self.norms.eval()
        for step, place in zip(self.steps(), self._places, strict=True):
            baseline = step.run(baseline, 0.0, place)
            if isinstance(step, Fade) and step.new is not None:
                fit_batchnorm(step.new, interior(pruned, place.ring), interior(baseline, place.ring))
            pruned = step.run(pruned, 1.0, place)
        self.norms.train(was_training)

    def merge(self, form: str | None = None) -> nn.Module:
        """The merged block in `form` (None: the block's own), computed in float64, stored in the block's dtype.

        Its ``origin`` says from which pruned body, and in which form, it was made.

        Raises:
            MergeError: λ is not 1, or a layer cannot be merged.
            ValueError: the pruned body has no such form.
        """
        form = form or self.form
        if form not in self.own_forms:
            known = ", ".join(self.own_forms)
            raise ValueError(f"{self.name}: no merged form {form!r} of the {self.body!r} body; choose one of {known}")
        if self.lam != 1.0:
            raise MergeError(self.name, f"λ is {self.lam:g}: only a block trained to λ = 1 merges")
        if self.body in WHOLE:
            merged = copy_model(self._instead())
        else:
            layers = [(f"{self.name}.{name}", layer) for name, layer in (step.merged() for step in self.steps())]
            merged = self.build_merged(move_padding(fold_chain(layers)), form)
        merged.origin = MergeOrigin(self.body, form)  # type: ignore[assignment]
        return merged

    def fuse(self) -> nn.Module:
        """The merged block at λ = 1, the timm block at λ = 0: what ``timm.utils.reparameterize_model`` calls."""
        return self.block if self.lam == 0.0 else self.merge()

    @property
    def padding(self) -> Pair:
        """The padding at the head of the chain."""
        return self._places[0].padding

    @property
    def stride(self) -> Pair:
        """Pixels of its input from one of its output to the next."""
        return stride_of(layers_of(self.steps()))

    @property
    def border(self) -> Pair:
        """How far into its output, in pixels, the chain's padding is seen."""
        return -(-self.padding[0] // self.stride[0]), -(-self.padding[1] // self.stride[1])

    @property
    def dtype(self) -> torch.dtype:
        return next(self.block.parameters()).dtype

    def extra_repr(self) -> str:
        return f"lam={self.lam:g}, body={self.body!r}, form={self.form!r}"


def _reading_all(block: nn.Module) -> nn.Module:
    """`block` with layers that read their whole input, in the place of those that select channels of it."""
    for name, module in list(block.named_modules()):
        whole = getattr(type(module), "without_selection", None)
        if whole is None:
            continue
        try:
            block.set_submodule(name, whole(module))
        except ValueError as error:
            raise MergeError(name or type(block).__name__, str(error)) from error
    return block
