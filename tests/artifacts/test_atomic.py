"""Files are wholly written or not there, and a failed write is one line that names the file and the reason."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import updp_rt
from updp_rt.artifacts.atomic import WriteError, atomic_path, remove_leftovers, write_json, write_text


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within, the kernel refuses to let a file grow past `size` bytes: a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_leftovers_of_killed_processes_are_removed_and_those_of_others_kept(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".a.ckpt.4194305.tmp", tmp_path / f".b.json.{os.getpid()}.tmp"
    dead.touch()
    alive.touch()
    remove_leftovers(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def test_writers_of_one_file_at_once_do_not_meet(tmp_path: Path) -> None:
    """Threads, and processes in containers, which have the same number."""
    path = tmp_path / "file.txt"
    with atomic_path(path) as one, atomic_path(path) as other:
        one.write_text("one")
        other.write_text("other, which takes longer")
    assert contents(tmp_path) == {"file.txt": b"one"}


def test_atomic_writes_leave_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert contents(path.parent) == {"file.txt": b"old"}


WRITERS = {
    "text": lambda path: path.write_text("x" * 300_000),
    "torch": lambda path: torch.save({"x": torch.zeros(300_000)}, path),
    "safetensors": lambda path: save_file({"x": torch.zeros(300_000)}, path),
}


@pytest.mark.parametrize("writer", list(WRITERS))
def test_a_full_disk_is_one_line_whoever_writes(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with largest_file(100_000), atomic_path(path) as temporary:
            WRITERS[writer](temporary)

    with pytest.raises(WriteError) as caught:
        write()
    assert str(caught.value).startswith(f"{path} cannot be written: ")
    assert str(caught.value).endswith(". Nothing was changed")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"file": b"old"}


def test_the_reason_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("updp_rt.artifacts.atomic.sync", full)
    with pytest.raises(WriteError, match=r"a\.json cannot be written: No space left on device\."):
        write_json(tmp_path / "a.json", {})
    assert contents(tmp_path) == {}


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in ("file/a.txt", "file/deep/a.txt"):
        with pytest.raises(WriteError, match=r"a\.txt cannot be written: (Not a directory|File exists)\."):
            write_text(tmp_path / below, "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"folder cannot be written: Is a directory\."):
        write_text(tmp_path / "folder", "x")


def test_errors_about_something_else_stay_as_they_are(tmp_path: Path) -> None:
    def read_another() -> None:
        with atomic_path(tmp_path / "a.txt"):
            (tmp_path / "none" / "b.txt").read_text()

    with pytest.raises(FileNotFoundError):
        read_another()


@pytest.mark.parametrize("size", [200_000, 0])
@pytest.mark.parametrize("older", [False, True])
def test_saving_on_a_full_disk_changes_nothing(size: int, older: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if older:
        updp_rt.save(timm.create_model("test_vit"), folder)
    before = contents(folder) if older else None
    model = timm.create_model("test_resnet")
    with largest_file(size), pytest.raises(WriteError, match="cannot be written"):
        updp_rt.save(model, folder)
    assert (contents(folder) if older else None) == before
    assert folder.exists() == older


def test_a_manifest_that_cannot_be_written_leaves_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise WriteError("full")

    monkeypatch.setattr("updp_rt.artifacts.store.write_text", full)
    with pytest.raises(WriteError, match="full"):
        updp_rt.save(timm.create_model("test_vit"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
