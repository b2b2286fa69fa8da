"""What accuracies on a number of images can tell apart, one by one and not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from optuna.trial import Trial
from torch import Tensor

from updp_rt.pruning.noise import Hits, compare, difference_error
from updp_rt.pruning.search import Candidate, Signal, search_blocks


def hits(right: list[int], images: int, order: str = "a") -> Hits:
    found = np.zeros(images, bool)
    found[right] = True
    return Hits(found, order)


def batches(sizes: tuple[int, ...] = (8, 8, 5)) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [(3 * torch.randn(size, 3, generator=draw), torch.randint(0, 3, (size,), generator=draw)) for size in sizes]


def test_hits_are_those_of_the_labels_and_survive_their_text() -> None:
    found = Hits.of(batches())
    logits, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    wanted = (logits.argmax(-1) == labels).numpy()
    assert (found.right == wanted).all()
    assert found.accuracy == wanted.mean()
    losses = -logits.double().log_softmax(-1)[torch.arange(len(labels)), labels]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-3, atol=1e-3)
    assert found.score == pytest.approx(-float(losses.mean()), rel=1e-3)
    again = Hits.from_text(found.to_text())
    assert (again.right == wanted).all()
    assert (again.order, again.score) == (found.order, found.score)
    other = Hits.of([(logits, labels.flip(0)) for logits, labels in batches()])
    assert other.order != found.order, "the same labels in another order are other images"
    with pytest.raises(ValueError, match="holds no images"):
        Hits.of([])


def test_hits_of_old_are_read_and_go_by_their_accuracy() -> None:
    old = Hits(Hits.of(batches()).right, "a")
    again = Hits.from_text(old.to_text())
    assert again.losses is None
    assert (again.right == old.right).all()
    assert again.score == old.accuracy


def test_what_diverged_is_the_worst_and_counts() -> None:
    worst = Hits.of([(torch.tensor([[math.nan, 0.0], [1e9, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]))])
    assert worst.losses is not None
    assert np.isfinite(worst.losses).all()
    assert worst.score < -3e4


def sure(losses: NDArray[Any]) -> Hits:
    """Of models that are right wherever that is likelier than not."""
    return Hits(losses < math.log(2), "a", losses.astype(np.float16))


def test_by_cross_entropy_models_are_told_apart_that_are_right_on_the_same_images() -> None:
    """Each image is easy or hard for both; the one is a little surer of each, and just as often right."""
    draw = np.random.default_rng(0)
    easy = draw.exponential(0.3, 400)
    one, other = sure(easy), sure(easy * 1.03)
    one = Hits(other.right, "a", one.losses)
    noise = compare([other, one])
    assert noise.by_loss
    assert noise.paired
    assert noise.level == (1,)
    assert noise.error == pytest.approx(np.std(0.03 * easy, ddof=1) / 20, rel=5e-2)
    assert compare([other, one], by_loss=False).level == (0, 1)
    assert not compare([other, Hits(one.right, "a")]).by_loss, "of one it is not known"
    apart = compare([Hits(other.right, "b", other.losses), one])
    assert not apart.paired
    assert apart.error == pytest.approx(np.std(easy, ddof=1) / 20, rel=2e-2)
    assert apart.level == (0, 1)


HARM = dict(zip("abcdef", (0.05, 0.01, 0.03, 0.02, 0.04, 0.06), strict=True))


def as_surely(blocks: tuple[str, ...]) -> Hits:
    """Every candidate is right on the same images; what is pruned makes it less sure."""
    easy = np.random.default_rng(0).exponential(0.2, 300)
    losses = (easy * (1 + sum(HARM[block] for block in blocks))).astype(np.float16)
    return Hits(easy < 0.6, "a", losses)


@pytest.mark.parametrize("engine", ["genetic", "guided", "front", "dp"])
def test_a_search_goes_by_cross_entropy(tmp_path: Path, engine: Any) -> None:
    """Where accuracies tell nothing apart, the three blocks that harm the least are found and chosen."""
    found = search_blocks(
        list(HARM), as_surely, lambda _: 1.0, storage=tmp_path / "s", trials=20, num_pruned=3, engine=engine
    )
    candidates, chosen, signal = found
    assert len({candidate.accuracy for candidate in candidates}) == 1
    assert chosen.blocks == ("b", "c", "d")
    assert signal is not None
    assert signal.by_loss
    assert "of cross entropy on 300 validation images, compared one by one" in signal.words()


def test_without_a_limit_what_is_pruned_may_cost_no_accuracy_that_can_be_seen(tmp_path: Path) -> None:
    """However much less sure it makes of what is right all the same."""
    _, chosen, signal = search_blocks(
        list(HARM), as_surely, lambda blocks: 9.0 - len(blocks), storage=tmp_path / "s", trials=20
    )
    assert chosen.blocks == tuple(HARM)
    assert signal is not None
    assert not signal.by_loss


def test_a_search_begun_by_accuracy_goes_on_by_it(tmp_path: Path) -> None:
    def plain(blocks: tuple[str, ...]) -> Hits:
        return Hits(np.arange(300) < 200 - 100 * sum(HARM[block] for block in blocks), "a")

    def of_old(trial: Trial, name: str, value: Any) -> None:
        if name != "score":
            set_user_attr(trial, name, value)

    def run(trials: int) -> tuple[list[Candidate], Candidate, Signal | None]:
        return search_blocks(list(HARM), plain, lambda _: 1.0, storage=tmp_path / "s", trials=trials, num_pruned=3)

    set_user_attr = Trial.set_user_attr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "set_user_attr", of_old)
        run(6)

    def better(blocks: tuple[str, ...]) -> Hits:
        return replace(plain(blocks), losses=np.zeros(300, np.float16))  # the best score that there is

    candidates, chosen, signal = search_blocks(
        list(HARM), better, lambda _: 1.0, storage=tmp_path / "s", trials=20, num_pruned=3
    )
    assert len(candidates) == 20
    assert chosen.accuracy == max(candidate.accuracy for candidate in candidates)
    assert signal is not None
    assert not signal.by_loss


def test_what_both_get_right_says_nothing() -> None:
    """Both are right on 990 of 1,000 images; on the others one is right 6 times, the other 2."""
    one = hits([*range(990), *range(990, 996)], 1000)
    other = hits([*range(990), 996, 997], 1000)
    assert difference_error(one, other) == pytest.approx(math.sqrt(8) / 1000)
    noise = compare([one, other])
    assert noise.level == (0,)  # 4 images, where chance gives 2.8
    assert (noise.error, noise.paired) == (pytest.approx(math.sqrt(8) / 1000), True)
    apart = compare([one, Hits(other.right, "b")])
    assert not apart.paired
    assert apart.error == pytest.approx(math.sqrt(0.996 * 0.004 / 1000))
    assert apart.level == (0,)  # 0.2 points, where they are 0.4 apart
    near = Hits(np.concatenate([one.right[:4], ~one.right[4:5], one.right[5:]]), "b")
    assert compare([one, near]).level == (0, 1)


def test_the_error_is_the_spread_of_equally_good_models() -> None:
    """Over many draws of models that are equally good, differences spread as far as `difference_error` says."""
    draw = np.random.default_rng(0)
    differences, errors = [], []
    for _ in range(400):
        shared, one, other = draw.random((3, 500)) < np.array([[0.7], [0.5], [0.5]])
        a, b = Hits(shared | one, "a"), Hits(shared | other, "a")
        differences.append(a.accuracy - b.accuracy)
        errors.append(difference_error(a, b))
    assert np.std(differences) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.1)


def test_a_single_image_never_tells_two_models_apart() -> None:
    noise = compare([hits([0, 1, 2], 4), hits([0, 1], 4)])
    assert noise.level == (0, 1)
    alone = compare([hits([0, 1, 2], 4)])
    assert alone.level == (0,)
    assert alone.error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert not alone.paired
