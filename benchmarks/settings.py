"""How a suite or a study runs: the settings that all share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from updp_rt._timing import sample_side_by_side


@dataclass(frozen=True)
class Settings:
    """None: what suits the suite and the device.

    Attributes:
        batches: batch sizes.
        pruned: how many blocks are merged in each variant of a model.
        seeds: of a study's weights and data.
        amounts: shares of the channels that are dropped, by the measures `importance`; `scope` as `prune_channels` has
            it.
        methods: of pruning.
        data: what a study trains and judges on.
        epochs: of training a study's subnets, at the learning rate `lr`.
        rounds: in which all candidates take turns.
        minutes: no case is begun that would not end within them.
        seconds: after these, times the candidates of a case, no further round is begun but for the first three.
        engines: other runtimes that models are compared in; ("none",) leaves them out.
        compiler: torch.compile's backend; "none" leaves it out. `compile_mode` is its mode.
        library_search: cuDNN and MIOpen try all of their algorithms.
        memory: measure peak memory too.
        upscale: folder of the published package that `channels_speed` compares with.
        shard: ``(i, n)``, the i-th of n parts of the cases, from 1; the parts share one result.
        work: folder of what a study shares and goes on from: trained baselines, checkpoints.
        resume: keep the rows of an earlier run in the same surroundings.
        out: folder of the results; `results_file`: where timm's columns are written.
        command: what makes these results again.
    """

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    models: tuple[str, ...] | None = None
    batches: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    image_size: int = 224
    pruned: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    amounts: tuple[float, ...] | None = None
    importance: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    scope: str = "global"
    data: str = "digits"
    epochs: int | None = None
    lr: float | None = None
    channels_last: bool = False
    warm_calls: int = 2
    rounds: int = 11
    seconds: float = 60.0
    minutes: float | None = None
    compiler: str = "inductor"
    engines: tuple[str, ...] | None = None
    compile_mode: str | None = None
    library_search: bool = True
    memory: bool = True
    upscale: Path | None = None
    shard: tuple[int, int] | None = None
    work: Path = Path("runs/studies")
    resume: bool = False
    out: Path | None = None
    results_file: Path | None = None
    command: str = ""

    @property
    def place(self) -> torch.device:
        return torch.device(self.device, torch.cuda.current_device()) if self.on_gpu else torch.device(self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def batches_or(self, cpu: tuple[int, ...], gpu: tuple[int, ...]) -> tuple[int, ...]:
        return self.batches or (gpu if self.on_gpu else cpu)

    @property
    def dtypes_or_default(self) -> tuple[str, ...]:
        return self.dtypes or (("float16", "bfloat16", "float32") if self.on_gpu else ("float32", "bfloat16"))

    def sample(
        self,
        calls: Mapping[str, Callable[[], object]],
        round_seconds: float,
        each_round: Callable[[int], None] | None = None,
        alone_seconds: float = 0.0,
    ) -> dict[str, list[float]]:
        """Seconds a call of each candidate in every round, taken as these settings say."""
        return sample_side_by_side(
            calls,
            rounds=self.rounds,
            round_seconds=round_seconds,
            alone_seconds=alone_seconds,
            device=self.place,
            warm_calls=self.warm_calls,
            limit_seconds=self.seconds * len(calls),
            each_round=each_round,
        )
