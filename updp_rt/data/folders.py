"""Image folders: which pictures they hold, and the class of each. Train's folders number the classes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval"),
    "test": ("test",),
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".jfif", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class FolderReader:
    """Pictures as timm's readers give them: an open file and a class by index, and a name for messages."""

    samples: list[tuple[str, int]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, label = self.samples[index]
        return open(path, "rb"), label

    def filename(self, index: int) -> str:
        return self.samples[index][0]


def find_split(folder: Path, split: str) -> Path | None:
    """The folder of a split, by any of its usual names."""
    return next((folder / name for name in SPLITS[split] if (folder / name).is_dir()), None)


def read_train(root: Path, classes: Mapping[str, int] | None = None) -> tuple[FolderReader, dict[str, int]]:
    """The pictures of the training split, and the index of each class: by name, or as `classes` says.

    Raises:
        ValueError: no class folders or a single class, pictures beside them, a class without pictures, or one that
            `classes` lacks.
    """
    found, others = _pictures_by_class(root)
    if not found:
        raise ValueError(
            f"{root}: holds no class folders; put the pictures of each class into one, as {root}/cat/1.jpg"
        )
    empty = [name for name, (_, pictures) in found.items() if not pictures]
    if empty and classes is None:
        raise ValueError(
            f"{found[empty[0]][0]}: no pictures there{_and_more(len(empty), 'such folder')}; add some "
            f"({', '.join(sorted(_SUFFIXES))}) or remove the folder"
        )
    if classes is None:
        if len(found) == 1:
            (name, (_, pictures)) = found.popitem()
            raise ValueError(
                f"{root}: all {len(pictures)} pictures are of one class, {name!r}, as the innermost folder is called; "
                f"put the pictures of each class into a folder of its own, as {root}/cat/1.jpg"
            )
        classes = number_classes(found)
    return _samples(found, classes, "the class map lacks it", others), dict(classes)


def read_split(root: Path, classes: Mapping[str, int]) -> FolderReader:
    """The pictures of another split, by train's numbering; a class may have none there.

    Raises:
        ValueError: no pictures at all, or some of a class that is not in train.
    """
    found, others = _pictures_by_class(root)
    reader = _samples(found, classes, "train has no such class", others)
    if not len(reader):
        raise ValueError(f"{root}: holds no pictures in class folders, such as {root}/{next(iter(classes))}/1.jpg")
    return reader


def number_classes(names: Iterable[str]) -> dict[str, int]:
    """Names numbered from 0, in timm's order."""
    return {name: index for index, name in enumerate(sorted(names, key=_natural))}


def read_class_map(path: Path) -> dict[str, int]:
    """Indices of classes from a file: ``.txt``, one name per line, numbered from 0; or ``.json``, names to indices.

    Raises:
        ValueError: another kind of file, one that cannot be read, or an index that is not a whole number from 0.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors mark the start of a file
        if path.suffix == ".txt":
            names = [line.strip() for line in text.splitlines() if line.strip()]
            found = {name: index for index, name in enumerate(names)}
            if len(found) < len(names):
                raise ValueError("a name occurs twice")
        elif path.suffix == ".json":
            found = json.loads(text)
        else:
            raise ValueError("give a .txt file with one name per line, or a .json file of names and indices")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a class map ({error})") from error
    if not isinstance(found, dict) or not found or not all(type(i) is int and i >= 0 for i in found.values()):
        raise ValueError(f"{path}: not a class map (names and indices from 0 were expected)")
    return found


def _samples(
    found: dict[str, tuple[str, list[str]]], classes: Mapping[str, int], why: str, others: Counter[str]
) -> FolderReader:
    unknown = [name for name, (_, pictures) in found.items() if pictures and name not in classes]
    if unknown:
        folder, pictures = found[unknown[0]]
        raise ValueError(
            f"{folder}: {len(pictures)} pictures of the class {unknown[0]!r}, but {why}"
            f"{_and_more(len(unknown), 'such folder')}; known are {_some(list(classes))}"
        )
    samples = [(path, classes[name]) for name, (_, pictures) in found.items() for path in pictures]
    return FolderReader(sorted(samples, key=lambda sample: _natural(sample[0])), tuple(_notes(found, others)))


def _notes(found: dict[str, tuple[str, list[str]]], others: Counter[str]) -> Iterator[str]:
    """What may not be as it was meant: classes in several folders, files that are no pictures by their names."""
    for name, (_, pictures) in found.items():
        folders = sorted({os.path.dirname(path) for path in pictures})
        if len(folders) > 1:
            yield (
                f"the innermost folders name the classes: {name!r} is in {len(folders)}, such as {folders[0]} and "
                f"{folders[1]}"
            )
            break
    if others:
        most = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:8]
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in most)
        yield f"files passed over, since they are no pictures by their names: {kinds}"


def _natural(name: str) -> tuple[Any, str]:
    """timm's order, 2 before 10; names that differ only in case each have a place."""
    from timm.utils.misc import natural_key

    return natural_key(name), name


def _pictures_by_class(root: Path) -> tuple[dict[str, tuple[str, list[str]]], Counter[str]]:
    """For each class, the first folder of that name and its pictures; and the suffixes of other files, counted.

    A class is the innermost folder that holds pictures, or nothing; folders in between group them. Hidden files and
    folders are passed over, links are followed.

    Raises:
        ValueError: pictures beside class folders, or both in one folder.
    """
    held: dict[str, list[str]] = {}
    empty = []
    others = Counter[str]()
    for folder, names, files in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        names[:] = [n for n in names if n[0] != "." and not _contains(os.path.realpath(f"{folder}/{n}"), real)]
        for name in files:
            path = os.path.join(folder, name)
            suffix = os.path.splitext(name)[1].lower()
            if suffix in _SUFFIXES:
                if name[0] != ".":
                    held.setdefault(folder, []).append(path)
            elif os.path.islink(path) and not os.path.exists(path):  # a class folder that would be missing unseen
                raise ValueError(f"{path}: a link to something that is not there; repair or remove it")
            elif name[0] != ".":
                others[suffix] += 1
        if folder not in held and not names and folder != str(root):
            empty.append(folder)
    if str(root) in held:
        first = sorted(held[str(root)])
        raise ValueError(
            f"{first[0]}: a picture in no class folder{_and_more(len(first), 'picture')}; put the pictures of each "
            f"class into one, as {root}/cat/1.jpg"
        )
    classes: dict[str, tuple[str, list[str]]] = {}
    for folder in sorted([*held, *empty]):
        outer = next((o for o in map(str, Path(folder).parents) if o in held), None)
        if outer is None:
            classes.setdefault(os.path.basename(folder), (folder, []))[1].extend(held.get(folder, []))
        elif folder in held:
            raise ValueError(
                f"{outer}: holds both pictures and a folder of pictures, {folder}: which names the class? Move one away"
            )
    return classes, others


def _contains(outer: str, inner: str) -> bool:
    """Whether a folder is the other one or holds it: following a link to it would never end."""
    return inner == outer or inner.startswith(outer + os.sep)


def _raise(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _and_more(count: int, what: str) -> str:
    return f" (and {count - 1} more {what}{'s' if count > 2 else ''})" if count > 1 else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
