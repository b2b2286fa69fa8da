"""Train's folders number the classes in every split, and what is odd about a folder is said at the start."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.data.making import encoded, make_folder, make_shards
from updp_rt.data import PicturesError, load_splits, make_loader
from updp_rt.data.folders import number_classes, read_class_map, read_train

ANIMALS = ("ant", "bee", "cat", "dog")
TRAIN = {f"train/{name}": 3 for name in ANIMALS}


def labels(split: object) -> list[int]:
    return [label for _, label in (split[i] for i in range(len(split)))]  # type: ignore[index, arg-type]


def splits_of(root: Path, **settings: object) -> object:
    return load_splits(str(root), (3, 32, 32), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "eval"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_class_without_validation_pictures_keeps_the_numbers_of_the_others(
    tmp_path: Path, name: str, empty: bool
) -> None:
    held = {f"{name}/ant": 1, f"{name}/cat": 2, f"{name}/dog": 1, **({f"{name}/bee": 0} if empty else {})}
    splits = splits_of(make_folder(tmp_path, {**TRAIN, **held}))
    assert splits.num_classes == 4
    assert labels(splits.test) == [0, 2, 2, 3]


def test_a_test_split_with_one_class_is_numbered_as_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {**TRAIN, "val/dog": 1, "test/cat": 2})
    splits = splits_of(tmp_path)
    assert (labels(splits.val), labels(splits.test)) == ([3], [2, 2])
    assert len(splits.train) == 12


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", ".git/objects", ".cache"])
@pytest.mark.parametrize("split", ["train", "validation", "train/ant", "validation/cat"])
def test_hidden_folders_are_no_classes(tmp_path: Path, hidden: str, split: str) -> None:
    make_folder(tmp_path, {**TRAIN, "validation/cat": 2, f"{split}/{hidden}": 1})
    splits = splits_of(tmp_path)
    assert splits.num_classes == 4
    assert labels(splits.test) == [2, 2]


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    make_folder(tmp_path, {**TRAIN, "validation/cat": 1})
    (tmp_path / "train/ant/._0.png").write_bytes(b"resource fork")
    (tmp_path / "train/.preview.png").write_bytes(encoded(0))
    splits = splits_of(tmp_path)
    assert len(splits.train) + len(splits.val) == 12


def test_folders_that_group_classes_name_none(tmp_path: Path) -> None:
    make_folder(
        tmp_path,
        {
            "train/insects/ant": 2,
            "train/insects/bee": 2,
            "train/pets/site1/cat": 1,
            "train/pets/site2/cat": 1,
            "val/cat": 2,
        },
    )
    splits = splits_of(tmp_path)
    assert splits.num_classes == 3
    assert labels(splits.test) == [2, 2]


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    make_folder(tmp_path / "pool", {"cat": 2, "dog": 2})
    make_folder(tmp_path / "data", {"train/ant": 2, "val/cat": 1})
    for name in ("cat", "dog"):
        (tmp_path / "data/train" / name).symlink_to(tmp_path / "pool" / name)
    (tmp_path / "pool/cat/again").symlink_to(tmp_path / "pool/cat")
    splits = splits_of(tmp_path / "data")
    assert splits.num_classes == 3
    assert labels(splits.test) == [1]
    (tmp_path / "data/train/bee").symlink_to(tmp_path / "pool/bee")
    with pytest.raises(ValueError, match=r"train/bee: a link to something that is not there"):
        splits_of(tmp_path / "data")


def test_numbers_are_timms_order_however_names_come(tmp_path: Path) -> None:
    wanted = ["1", "2", "10", "b", "Cat", "cat"]
    make_folder(tmp_path, {f"train/{name}": 1 for name in reversed(wanted)})
    assert list(read_train(tmp_path / "train")[1]) == wanted
    assert all(list(number_classes(names)) == wanted for names in (reversed(wanted), sorted(wanted)))


@pytest.mark.parametrize(("name", "text"), [("classes.txt", "dog\nant\nbee\nwolf\ncat\n"), ("classes.json", None)])
def test_a_class_map_numbers_the_classes(tmp_path: Path, name: str, text: str | None) -> None:
    make_folder(tmp_path, {**TRAIN, "validation/ant": 1, "validation/cat": 1, "validation/wolf": 1})
    path = tmp_path / name
    path.write_text(text or '{"dog": 0, "ant": 1, "bee": 2, "wolf": 3, "cat": 4}')
    splits = splits_of(tmp_path, class_map=path)
    assert splits.num_classes == 5
    assert labels(splits.test) == [1, 4, 3]
    path.write_text((text or '{"dog": 0}').replace("bee\n", ""))
    with pytest.raises(ValueError, match=r"train/(bee|ant): 3 pictures of the class .* but the class map lacks it"):
        splits_of(tmp_path, class_map=path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\ncat\n", "a name occurs twice"),
        ("a.txt", "", "names and indices"),
        ("a.json", '{"cat": "0"}', "names and indices"),
        ("a.json", "{", "Expecting property name"),
        ("a.pkl", "", "give a .txt file"),
    ],
)
def test_bad_class_maps(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: not a class map \(.*{message}"):
        read_class_map(tmp_path / name)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {**TRAIN, "val/cat": 1, "val/wolf": 2},
            r"val/wolf: 2 pictures of the class 'wolf', but train has no such class",
        ),
        ({**TRAIN, "val/cat": 1, "test/Cat": 1}, r"test/Cat: 1 pictures .* known are ant, bee, cat, dog"),
        ({**TRAIN, "train/bee": 0, "val/cat": 1}, r"train/bee: no pictures there; add some"),
        ({**TRAIN, "train/bee": 0, "train/eel": 0, "val/cat": 1}, r"train/bee: no pictures there \(and 1 more such"),
        ({"train": 3, "val/cat": 1}, r"train/0.png: a picture in no class folder \(and 2 more pictures\)"),
        ({"train": 0, "val/cat": 1}, r"train: holds no class folders"),
        ({**TRAIN, "train": 1, "val/cat": 1}, r"train/12.png: a picture in no class folder;"),
        (
            {**TRAIN, "train/cat/more": 1, "val/cat": 1},
            r"train/cat: holds both pictures and a folder of pictures, .*cat/more",
        ),
        ({**TRAIN, "val": 0}, r"val: holds no pictures in class folders"),
        (TRAIN, r"lacks validation/\): give 'digits', an image folder"),
        ({"ant": 2, "bee": 2}, r"lacks train/\): give 'digits', an image folder"),
        ({f"train/{name}": 1 for name in ANIMALS} | {"val/cat": 1}, r"train: one picture per class \(4 in all\)"),
    ],
)
def test_what_is_odd_about_a_folder_is_said_at_once(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splits_of(make_folder(tmp_path, counts))


def test_fewer_classes_than_there_are_is_an_error(tmp_path: Path) -> None:
    make_folder(tmp_path, {**TRAIN, "val/cat": 1})
    with pytest.raises(ValueError, match="has 4 classes, more than the 3 that --num-classes says"):
        splits_of(tmp_path, num_classes=3)
    assert splits_of(tmp_path, num_classes=7).num_classes == 7


def test_no_class_loses_its_last_training_picture_to_the_choice_of_subnets(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/ant": 1, "train/bee": 3, "train/cat": 1, "val/cat": 1})
    splits = splits_of(tmp_path, val_fraction=0.9)
    assert Counter(labels(splits.train)) == {0: 1, 1: 1, 2: 1}
    assert labels(splits.val) == [1, 1]


def test_one_picture_a_class_will_do_where_there_is_a_test_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 1 for split in ("train", "val", "test") for name in ANIMALS})
    assert labels(splits_of(tmp_path).train) == [0, 1, 2, 3]


def shard_labels(split: object) -> list[int]:
    return [label for _, batch in make_loader(split, 4, training=False) for label in batch.tolist()]  # type: ignore[arg-type]


def test_names_in_shards_are_numbered_by_train(tmp_path: Path) -> None:
    make_shards(tmp_path, {"train": ["dog", "ant", "cat", "bee"], "valid": ["cat", "dog"], "test": ["bee"]})
    splits = load_splits(f"wds/{tmp_path}", (3, 32, 32))
    assert splits.num_classes == 4
    assert (shard_labels(splits.val), shard_labels(splits.test)) == ([2, 3], [1])
    (tmp_path / "classes.txt").write_text("wolf\ncat\ndog\nant\nbee\n")
    mapped = load_splits(f"wds/{tmp_path}", (3, 32, 32), class_map=tmp_path / "classes.txt")
    assert (mapped.num_classes, shard_labels(mapped.val)) == (5, [1, 2])


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (
            {"train": ["ant", "cat"], "val": ["wolf"], "test": ["ant"]},
            None,
            r"val-0.tar: val000: its class 'wolf' is not",
        ),
        ({"train": [0, 1], "val": [0, 5], "test": [0]}, 4, r"val001: its class is 5, but there are 4"),
        ({"train": [0, 1], "val": [], "test": [0]}, 4, r"the validation split of .* holds no pictures"),
    ],
)
def test_labels_of_shards_that_train_does_not_have(
    tmp_path: Path, labels: dict[str, list[str | int]], num_classes: int | None, message: str
) -> None:
    make_shards(tmp_path, labels)
    with pytest.raises(ValueError, match=message):
        load_splits(f"wds/{tmp_path}", (3, 32, 32), num_classes=num_classes)


def test_shards_name_what_they_leave_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_shards(tmp_path, {"train": [0] * 4, "val": [0, 1, 2, 3], "test": [0, 1]}, torn=["val001"], image="jpeg")
    splits = load_splits(f"wds/{tmp_path}", (1, 32, 32), num_classes=4)
    assert shard_labels(splits.val) == [0, 2, 3]
    assert "val-0.tar: val001: cannot be read" in caplog.text
    assert next(iter(splits.val))[0].shape == (1, 32, 32)
    make_shards(tmp_path, {"train": [0] * 4, "val": [0] * 4, "test": [0, 1]}, torn=["val001", "val003"])
    with pytest.raises(PicturesError, match=r"2 of 4 pictures cannot be read: .*val001, .*val003; replace"):
        load_splits(f"wds/{tmp_path}", (3, 32, 32), num_classes=4)


@pytest.mark.parametrize("held", [{"train/cat/images": 2, "train/dog/images": 2}, {"train/photos": 3}])
def test_a_single_class_is_a_folder_put_wrongly(tmp_path: Path, held: dict[str, int]) -> None:
    name = next(iter(held)).rpartition("/")[2]
    with pytest.raises(ValueError, match=rf"train: all \d pictures are of one class, '{name}', as the innermost"):
        splits_of(make_folder(tmp_path, {**held, f"val/{name}": 1}))


def test_what_may_not_be_meant_is_said(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/cat/left": 2, "train/cat/right": 2, "train/dog/left": 2, "val/left": 1})
    (tmp_path / "train/dog/left/a.heic").write_bytes(b"of another kind")
    (tmp_path / "train/labels.TXT").write_text("cat")
    (tmp_path / "train/.DS_Store").write_bytes(b"")
    notes = "\n".join(splits_of(tmp_path).describe())  # type: ignore[attr-defined]
    assert f"'left' is in 2, such as {tmp_path}/train/cat/left and {tmp_path}/train/dog/left" in notes
    assert "files passed over, since they are no pictures by their names: 1 .heic, 1 .txt" in notes
    assert "DS_Store" not in notes


def test_a_class_map_from_windows(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")
    (tmp_path / "map.json").write_bytes(b'\xef\xbb\xbf{"cat": 0, "dog": 1}')
    assert read_class_map(tmp_path / "map.txt") == read_class_map(tmp_path / "map.json") == {"cat": 0, "dog": 1}
