"""Stage 2: which blocks to prune, by a search over the supernet's subnets: by exchanges, genetic, or by tables."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict

from updp_rt.pruning.genes import Genes, blocks_of, by_block, count_subnets, draw, fastest_genes, ordered
from updp_rt.pruning.genetic import next_by_genes, size_of
from updp_rt.pruning.goals import check_latency, check_num_pruned
from updp_rt.pruning.guided import next_guided
from updp_rt.pruning.noise import Hits, compare
from updp_rt.pruning.progress import Progress
from updp_rt.pruning.study import Database, Directions, SharedStudy, open_journal
from updp_rt.pruning.tabulated import TABULATED, count_trials, next_by_tables

Engine = Literal["guided", "genetic", "front", "dp"]
Propose = Callable[[Mapping[Genes, float | None]], Genes | None]

DIRECTIONS: Directions = ["maximize", "minimize"]  # of what accuracies or scores are, and latency
ALIKE = 1.01  # latencies by a table of measured ones tell no less apart


class Candidate(BaseModel):
    """One evaluated subnet: its pruned blocks, its accuracy in the supernet, its latency by the table.

    A block that had a choice of pruned bodies is written with the one it takes: ``layer1.0 as full``; neighbours that
    become one convolution are written together: ``blocks.2.1+blocks.2.2``.
    """

    model_config = ConfigDict(extra="forbid")

    blocks: tuple[str, ...]
    accuracy: float
    latency_ms: float

    @property
    def pruned(self) -> int:
        """How many blocks it prunes."""
        return len(blocks_of(*self.blocks))


class Signal(BaseModel):
    """What judging candidates on so many images can tell apart.

    Attributes:
        images: how many they were judged on.
        standard_error: of the best candidate's cross entropy, as that many images drawn at random have it; or,
            `paired`, of its differences to the others, compared image by image, in the median: see
            `updp_rt.pruning.noise`.
        by_loss: whether by cross entropies; False in results of old, which are by accuracies.
        level: how many candidates are within one standard error of the best, itself among them.
        compared: how many there are: those that meet the goal; None in results of old.
    """

    model_config = ConfigDict(extra="forbid")

    images: int
    standard_error: float
    level: int
    paired: bool = False
    by_loss: bool = False
    compared: int | None = None

    def words(self) -> str:
        """The same, as a sentence goes on."""
        error = (
            f"±{self.standard_error:.2g} of cross entropy"
            if self.by_loss
            else f"±{100 * self.standard_error:.2g} points"
        )
        margin = f"{error} on {self.images} validation images"
        margin += ", compared one by one" if self.paired else ""
        if self.compared == 1:
            return f"a single candidate meets the goal ({margin})"
        if self.level == 1:
            return f"the best candidate is ahead of all others by more than the noise ({margin})"
        of = "" if self.compared is None else f" of {self.compared}"
        return (
            f"{self.level}{of} candidates are within the noise of the best ({margin}): the fastest of them was chosen"
        )


class SearchResult(BaseModel):
    """Every candidate in order of evaluation, and the one chosen with the pruned body of each block.

    `signal` is None where no candidates were compared.
    """

    model_config = ConfigDict(extra="forbid")

    candidates: list[Candidate]
    chosen: Candidate
    bodies: dict[str, str]
    signal: Signal | None = None

    def front(self) -> list[Candidate]:
        """The candidates that no other beats in both accuracy and latency, fastest first."""
        best: list[Candidate] = []
        for candidate in sorted(self.candidates, key=lambda c: (c.latency_ms, -c.accuracy)):
            if not best or candidate.accuracy > best[-1].accuracy:
                best.append(candidate)
        return best

    def by_count(self) -> dict[int, Candidate]:
        """The most accurate candidate of each number of pruned blocks (of equals the fastest), fewest blocks first."""
        ranked = sorted(self.candidates, key=lambda c: (c.pruned, c.accuracy, -c.latency_ms))
        return {candidate.pruned: candidate for candidate in ranked}


def pick(
    candidates: Sequence[Candidate], hits: Mapping[tuple[str, ...], Hits] | None = None, *, by_loss: bool = True
) -> tuple[Candidate, Signal | None]:
    """The candidate to choose: the fastest of those that are as good as the best, as far as can be seen.

    Of candidates whose latencies are less than `ALIKE` apart from the fastest's, the best: a little time more or less
    is noise too.

    Args:
        hits: by blocks, which images each candidate got right and how sure it was; None: accuracies are exact.
        by_loss: compare cross entropies, where they are known; otherwise accuracies.
    """
    if hits is None:
        best = max(candidate.accuracy for candidate in candidates)
        level, signal = [candidate for candidate in candidates if candidate.accuracy == best], None
    else:
        judged = [hits[candidate.blocks] for candidate in candidates]
        noise = compare(judged, by_loss=by_loss)
        level = [candidates[index] for index in noise.level]
        signal = Signal(
            images=len(judged[0].right),
            standard_error=noise.error,
            level=len(level),
            paired=noise.paired,
            by_loss=noise.by_loss,
            compared=len(candidates),
        )
    fastest = min(candidate.latency_ms for candidate in level)
    alike = fastest + (ALIKE - 1) * abs(fastest)  # on a busy machine a table may say less than nothing
    known = hits or {}

    def worth(candidate: Candidate) -> float:
        return known[candidate.blocks].score if signal is not None and signal.by_loss else candidate.accuracy

    return max((c for c in level if c.latency_ms <= alike), key=worth), signal


def search_blocks(
    names: Sequence[str],
    evaluate: Callable[[tuple[str, ...]], float | Hits],
    latency_ms: Callable[[tuple[str, ...]], float],
    *,
    storage: Path | Database,
    trials: int,
    seed: int = 0,
    engine: Engine | None = None,
    num_pruned: int | None = None,
    max_latency_ms: float | None = None,
    progress: Progress | None = None,
) -> tuple[list[Candidate], Candidate, Signal | None]:
    """Search the subsets of blocks to prune; returns all candidates, the chosen one, and what could be told apart.

    The goal is `num_pruned`, a number of blocks; or `max_latency_ms`, the latency allowed; or neither, and then what
    counts is the front of accuracy against latency. `pick` chooses among the candidates that meet it.

    Without `num_pruned`, the first generation is the fastest subnet and others of all sizes, so something is within
    the limit and the front is wide.

    The study lives in `storage`; a search that was killed goes on to the same result, and several processes may run
    this at once on one file, or on several machines with one database, to share the work. What a process was at when
    it died, another takes over.

    Args:
        names: of the blocks; where some may take several pruned bodies, all genes, see `updp_rt.pruning.genes`.
        evaluate: accuracy of a subnet on images that are neither trained nor tested on, if it is exact; or which of
            them it got right, and how sure it was, which then counts.
        latency_ms: of a subnet, from the table: a sum over its blocks.
        trials: candidates in all, whoever evaluates them, each another one; fewer where there are not so many. The
            engines that judge single blocks first take at least two more than there are genes.
        engine: guided begins with single blocks and goes on from the best, see `updp_rt.pruning.guided`; genetic
            follows what meets the goal and is good, see `updp_rt.pruning.genetic`; front is NSGA-II, which follows
            the front; dp goes by tables, see `updp_rt.pruning.tabulated`. None: see `default_engine`.

    Raises:
        ValueError: more blocks to prune than there are, or a number of them where some have a choice of bodies; no
        subnet is fast enough, or none faster than the model.
        WriteError: the file cannot be written. StorageError: the database cannot be reached.
    """
    check_num_pruned(names, num_pruned)
    if num_pruned is not None and len(by_block(names)) < len(names):
        raise ValueError("a number of blocks weighs no latency, by which bodies are chosen: give each block one body")
    fastest = fastest_genes(names, latency_ms)
    if num_pruned is None:
        check_latency(latency_ms(()), latency_ms(fastest), max_latency_ms)
    engine = engine or default_engine(names, trials, num_pruned, max_latency_ms)
    there_are = count_subnets(names, None if engine in TABULATED else num_pruned)
    trials = min(count_trials(engine, len(names), trials), there_are)
    proposes: dict[str, Callable[..., Genes | None]] = {
        "dp": next_by_tables,
        "genetic": partial(next_by_genes, seed=seed),
        "guided": partial(next_guided, seed=seed),
    }
    propose: Propose | None = None
    if engine in proposes:
        goal = {"num_pruned": num_pruned, "max_latency_ms": max_latency_ms}
        propose = partial(proposes[engine], names, latency_ms=latency_ms, trials=trials, **goal)
    space = _Space(names, num_pruned if propose is None else None, fastest)
    progress = progress or Progress(show=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _open_study(storage, progress) as shared:
        study = shared.study
        done = shared.attempt(partial(_candidates, study))
        best = max((candidate.accuracy for candidate in done), default=0.0)
        with progress.task("search", trials, len(done)) as advance:
            while True:
                trial = shared.attempt(partial(_next_trial, shared, space, trials, seed, propose))
                if trial is None and not shared.attempt(shared.running):
                    break
                if trial is None:  # another process is at the last ones
                    time.sleep(shared.pause)
                    continue
                blocks = tuple(trial.user_attrs["blocks"])
                with shared.at_work(trial):
                    found, latency = evaluate(blocks), latency_ms(blocks)
                accuracy = found.accuracy if isinstance(found, Hits) else found
                shared.attempt(partial(_tell, study, trial, found, latency))
                best = max(best, accuracy)
                progress.log(f"search: {len(blocks_of(*blocks))} blocks, accuracy {accuracy:.4g}, {latency:.3g} ms")
                advance(f"best {best:.3f}")
        candidates, hits = shared.attempt(lambda: (_candidates(study), _hits(study)))
    meeting = [
        candidate
        for candidate in candidates
        if len(candidate.blocks) == (num_pruned or max(1, len(candidate.blocks)))
        and candidate.latency_ms <= (max_latency_ms or candidate.latency_ms)
    ]
    # Without a limit what is pruned may cost nothing: no accuracy, that is, of which cross entropy takes more.
    limited = num_pruned is not None or max_latency_ms is not None
    return candidates, *pick(meeting, hits, by_loss=limited)


def default_engine(names: Sequence[str], trials: int, num_pruned: int | None, max_latency_ms: float | None) -> Engine:
    """The engine for a goal: guided, where at most half of the trials go to single genes.

    With fewer trials what a sum of single genes promises cannot be tried enough, and with enough for all subsets that
    there are none is to be chosen: it is then genetic for a number of blocks, and front for a latency. It is front,
    too, where there is no limit.
    """
    limited = num_pruned is not None or max_latency_ms is not None
    if limited and 2 * (len(names) + 1) <= trials < count_subnets(names, num_pruned):
        return "guided"
    return "front" if num_pruned is None else "genetic"


@dataclass(frozen=True)
class _Space:
    """The subsets that a search over the genes `names` may visit, and Optuna's genomes that stand for them.

    With a number of blocks a genome is one random key a block, and the largest keys are pruned: every genome is
    feasible. Otherwise it is one bit a block, or, where it has a choice of bodies, one of these or none.
    """

    names: Sequence[str]
    num_pruned: int | None
    fastest: Genes

    def decode(self, trial: Trial) -> Genes:
        if self.num_pruned is None:
            found: list[str] = []
            for name, own in self._alleles():
                gene = own[trial.suggest_categorical(name, list(own))]
                if gene and name not in blocks_of(*found):  # or it is joined to the block before
                    found.append(gene)
            return tuple(found)
        keys = {name: trial.suggest_float(name, 0.0, 1.0) for name in self.names}
        return ordered(self.names, sorted(self.names, key=lambda name: -keys[name])[: self.num_pruned])

    def encode(self, genes: Genes, rng: random.Random) -> dict[str, float | bool | str]:
        if self.num_pruned is None:
            return {name: next((a for a, g in own.items() if g in genes), False) for name, own in self._alleles()}
        return {name: rng.uniform(0.5, 1.0) if name in genes else rng.uniform(0.0, 0.5) for name in self.names}

    def draw(self, seen: Collection[Genes], rng: random.Random, count: int | None = None) -> Genes:
        """A random subset that was not seen yet, at first of `count` blocks."""
        while True:
            size = self.num_pruned or (rng.randint(0, len(by_block(self.names))) if count is None else count)
            genes, count = draw(self.names, size, rng), None
            if genes not in seen:
                return genes

    def _alleles(self) -> list[tuple[str, dict[Any, str]]]:
        """Of each block what Optuna may choose, and the gene that it stands for; of several blocks at the first."""
        return [
            (name, {False: "", **({True: genes[0]} if len(genes) == 1 else {gene: gene for gene in genes})})
            for name, every in by_block(self.names).items()
            if (genes := [gene for gene in every if blocks_of(gene)[0] == name])
        ]


def _open_study(storage: Path | Database, progress: Progress) -> AbstractContextManager[SharedStudy]:
    if isinstance(storage, Path):
        return open_journal(storage, DIRECTIONS)
    from updp_rt.pruning.database import open_database  # and SQLAlchemy

    return open_database(storage, DIRECTIONS, progress.log)


def _next_trial(shared: SharedStudy, space: _Space, trials: int, seed: int, propose: Propose | None) -> Trial | None:
    """A trial of this process, its blocks chosen, or None where all are taken; one process at a time may ask.

    Where a genome stands for blocks that are known already, its trial is given up, and the next is a random subset.
    """
    study = shared.study
    with shared.alone():
        shared.give_up_lost()
        while True:
            asked = [t for t in study.get_trials(deepcopy=False) if t.state in _ASKED]
            seen = {tuple(t.user_attrs["blocks"]) for t in asked}
            if len(seen) >= trials:
                return None
            # A sampler of its own for each trial: what it draws depends on the seed and on how many went before.
            count, population = len(asked), max(4, min(20, trials // 4))
            study.sampler = NSGAIISampler(seed=seed * 100_003 + count, population_size=population)
            rng, given = random.Random(f"{seed}/{count}"), None
            if propose is not None:
                worth = _worth(asked)
                given = propose({tuple(t.user_attrs["blocks"]): t.user_attrs.get(worth) for t in asked})
                if given is None:
                    return None
            elif asked and asked[-1].state == TrialState.PRUNED:
                given = space.draw(seen, rng)
            elif space.num_pruned is None and count < population:
                given = space.draw(seen, rng, size_of(space.names, count, population)) if count else space.fastest
            if given is not None and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                study.enqueue_trial(space.encode(given, rng))
            trial = study.ask()
            blocks = space.decode(trial)
            trial.set_user_attr("blocks", list(blocks))
            shared.sign(trial)
            if blocks not in seen:
                return trial
            study.tell(trial, state=TrialState.PRUNED)


_ASKED = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED)


def _worth(trials: Sequence[FrozenTrial]) -> str:
    """The attribute of trials that says how good they are: the score, unless the search was begun without any."""
    done = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    return "score" if all("score" in trial.user_attrs for trial in done) else "accuracy"


def _tell(study: optuna.Study, trial: Trial, found: float | Hits, latency_ms: float) -> None:
    """Store what a trial gave, unless it is stored, or was given up and taken over while nobody heard of its worker."""
    both = (found.accuracy, found.score) if isinstance(found, Hits) else (found, found)
    judged = dict(zip(("accuracy", "score"), both, strict=True))
    try:
        if isinstance(found, Hits):
            trial.set_user_attr("hits", found.to_text())
        for name, value in judged.items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("latency_ms", latency_ms)
    except UpdateFinishedTrialError:
        return
    worth = judged[_worth(study.get_trials(deepcopy=False))]
    study.tell(trial, [worth, latency_ms], skip_if_finished=True)


def _candidates(study: optuna.Study) -> list[Candidate]:
    return [
        Candidate(
            blocks=tuple(trial.user_attrs["blocks"]),
            accuracy=trial.user_attrs["accuracy"],
            latency_ms=trial.user_attrs["latency_ms"],
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]


def _hits(study: optuna.Study) -> dict[tuple[str, ...], Hits] | None:
    """Which images each candidate got right; None where that is not known of all."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not all("hits" in trial.user_attrs for trial in trials):
        return None
    return {tuple(trial.user_attrs["blocks"]): Hits.from_text(trial.user_attrs["hits"]) for trial in trials}
