"""What processes and workers read of a data set: disjoint, complete, and the same whoever reads it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.data.making import encoded
from updp_rt.data import load_splits, make_loader
from updp_rt.data.order import SeededImages, mix, numbers_kept, seed_numbers
from updp_rt.data.sharing import count_batches, part_of

SIZES = (11, 1, 7, 4)


def write_shards(root: Path, sizes: Sequence[int], torn: Sequence[int] = ()) -> Path:
    """The same images in all three splits, their labels counting them through shards of these sizes."""
    names, number = [], 0
    for shard, size in enumerate(sizes):
        names.append(f"{shard}.tar")
        with tarfile.open(root / names[-1], "w") as tar:
            for _ in range(size):
                payload = encoded(number, size=(8, 8))[: 20 if number in torn else None]
                for suffix, data in (("png", payload), ("cls", str(number).encode())):
                    info = tarfile.TarInfo(f"{number:03}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                number += 1
    described = {"num_samples": sum(sizes), "filenames": names, "shard_lengths": list(sizes)}
    splits = {split: {"name": split, **described} for split in ("train", "validation", "test")}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return root


def opened(root: Path, split: str) -> Any:
    return getattr(load_splits(f"wds/{root}", (3, 8, 8), num_classes=100), split)


def labels(loader: DataLoader[Any]) -> list[list[int]]:
    return [batch.tolist() for _, batch in loader]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shards_are_evaluated_once_each(tmp_path: Path, processes: int) -> None:
    loader = make_loader(opened(write_shards(tmp_path, SIZES), "val"), 3, training=False)
    parts = [labels(part_of(loader, rank, processes)) for rank in range(processes)]
    assert [n for part in parts for batch in part for n in batch] == list(range(23))
    assert all(len(part) == len(part_of(loader, rank, processes)) for rank, part in enumerate(parts))


def test_workers_of_processes_read_what_their_process_would(tmp_path: Path) -> None:
    data = opened(write_shards(tmp_path, SIZES), "val")
    loader = make_loader(data, 3, training=False, workers=2)
    found = [n for rank in range(2) for batch in labels(part_of(loader, rank, 2)) for n in batch]
    assert sorted(found) == list(range(23))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shards_are_trained_on_in_equally_many_whole_batches(tmp_path: Path, processes: int) -> None:
    loader = make_loader(opened(write_shards(tmp_path, SIZES), "train"), 3, training=True, seed=5)
    left_out, orders = Counter[int](), []
    for epoch in range(6):
        loader.dataset.set_epoch(epoch)
        parts = [labels(part_of(loader, rank, processes)) for rank in range(processes)]
        assert {len(part) for part in parts} == {count_batches(loader, processes)} == {23 // (3 * processes)}
        taken = [n for part in parts for batch in part for n in batch]
        assert len(taken) == len(set(taken)) == 23 // (3 * processes) * 3 * processes
        assert all(len(batch) == 3 for part in parts for batch in part)
        again = [labels(part_of(loader, rank, processes)) for rank in range(processes)]
        assert again == parts
        left_out.update(set(range(23)) - set(taken))
        orders.append(taken)
    assert max(left_out.values()) < 6, "what is left out of one epoch is in another"
    assert len({str(order) for order in orders}) == 6


def test_a_process_whose_pictures_are_torn_keeps_step(tmp_path: Path) -> None:
    loader = make_loader(opened(write_shards(tmp_path, (12, 12), torn=(3, 7)), "train"), 4, training=True)
    parts = [[n for batch in labels(part_of(loader, rank, 2)) for n in batch] for rank in range(2)]
    assert [len(part) for part in parts] == [12, 12]
    assert set(parts[0]) | set(parts[1]) == set(range(24)) - {3, 7}
    assert not set(parts[0]) & set(parts[1])


def test_shards_that_do_not_say_their_lengths_are_refused(tmp_path: Path) -> None:
    info = json.loads((write_shards(tmp_path, SIZES) / "_info.json").read_text())
    info["splits"]["validation"]["shard_lengths"] = [23]
    (tmp_path / "_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"cannot read the validation split of .*: 4 shards, but 1 shard_lengths"):
        opened(tmp_path, "val")


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_batches_of_images_are_evaluated_once_each(processes: int) -> None:
    loader = make_loader(TensorDataset(torch.zeros(23, 1), torch.arange(23)), 3, training=False)
    parts = [labels(part_of(loader, rank, processes)) for rank in range(processes)]
    assert sorted(n for part in parts for batch in part for n in batch) == list(range(23))
    assert sorted(batch for part in parts for batch in part) == labels(loader)


def test_an_order_of_its_own_is_read_whole() -> None:
    data = TensorDataset(torch.zeros(6, 1), torch.arange(6))
    loader = DataLoader(data, 2, shuffle=True)
    assert part_of(loader, 0, 2) is loader
    assert count_batches(loader, 2) == 2
    assert count_batches(DataLoader(data, 2, drop_last=True), 2) == 1


class Noisy(Dataset[Any]):
    """Each image is a random number of each kind."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import random

        import numpy as np

        return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]), index


def drawn(epoch: int, batch_size: int, workers: int = 0) -> dict[int, list[float]]:
    loader = make_loader(Noisy(), batch_size, training=True, seed=3, workers=workers)
    assert isinstance(loader.dataset, SeededImages)
    loader.dataset.order.set_epoch(epoch)
    return {int(n): image.tolist() for images, numbers in loader for image, n in zip(images, numbers, strict=True)}


def test_random_changes_follow_from_seed_epoch_and_image() -> None:
    torch.manual_seed(1)
    first = drawn(0, 2)
    torch.manual_seed(2)
    assert drawn(0, 3) == first
    assert drawn(0, 1, workers=2) == first
    assert not {tuple(v) for v in drawn(1, 2).values()} & {tuple(v) for v in first.values()}
    values = [number for image in first.values() for number in image]
    assert len(set(values)) == 18


def test_loading_an_image_draws_from_no_ones_numbers() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    images = make_loader(Noisy(), 2, training=True).dataset
    images[3]
    images.__getitems__([1, 2])
    assert torch.equal(torch.rand(3), wanted)
    kept = torch.get_rng_state()
    with contextlib.suppress(KeyError), numbers_kept():
        seed_numbers(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), kept)


def test_seeds_are_spread() -> None:
    seeds = {mix(seed, epoch, index) for seed in range(3) for epoch in range(10) for index in range(500)}
    assert len(seeds) > 14_990
    assert mix(1, 2) != mix(2, 1)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert abs(sum(seed >> 31 for seed in seeds) / len(seeds) - 0.5) < 0.02
