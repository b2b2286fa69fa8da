"""What accuracies on a number of images can tell apart, one by one and not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from updp_rt.pruning.noise import Hits, compare, difference_error


def hits(right: list[int], images: int, order: str = "a") -> Hits:
    found = np.zeros(images, bool)
    found[right] = True
    return Hits(found, order)


def test_hits_are_those_of_the_labels_and_survive_their_text() -> None:
    draw = torch.Generator().manual_seed(0)
    predicted = [torch.randint(0, 3, (size,), generator=draw) for size in (8, 8, 5)]
    labels = [torch.randint(0, 3, (size,), generator=draw) for size in (8, 8, 5)]
    found = Hits.of(zip(predicted, labels, strict=True))
    wanted = (torch.cat(predicted) == torch.cat(labels)).numpy()
    assert (found.right == wanted).all()
    assert found.accuracy == wanted.mean()
    again = Hits.from_text(found.to_text())
    assert (again.right == wanted).all()
    assert again.order == found.order
    other = Hits.of(zip(labels, [label.flip(0) for label in labels], strict=True))
    assert other.order != found.order, "the same labels in another order are other images"
    with pytest.raises(ValueError, match="holds no images"):
        Hits.of([])


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
