"""Dispatch: the fastest verified candidate, measured once, kept in a table; what disagrees or fails is demoted."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import updp_rt
from tests.runtime.conftest import Stub
from updp_rt.backends import BACKENDS
from updp_rt.runtime import device, dispatch
from updp_rt.runtime.table import Entry, Table, forget_tables, table_for


def fail(y: Tensor) -> Tensor:
    raise RuntimeError("out of resource: shared memory\nand more lines")


def layer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(5, 3)).eval(), torch.randn(4, 5)


def rows(model: nn.Module) -> list[updp_rt.runtime.explanation.Row]:
    return updp_rt.explain(model).rows


def test_the_fastest_is_chosen(candidates: Callable[..., dict[str, Stub]]) -> None:
    candidates(slow=(lambda y: y, 3e-3), fast=(lambda y: y, 1e-3), middle=(lambda y: y, 2e-3))
    (row,) = rows(updp_rt.accelerate(*layer()))
    assert row.kernel == "fast"
    assert row.why == "the fastest measured"
    assert row.times_ms == {"slow": 3.0, "fast": 1.0, "middle": 2.0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y + 1e-3, "its error of 1.0e-03 is above the bound"),
        (lambda y: torch.where(y == y.max(), torch.nan, y), "its error of nan is above the bound"),
        (lambda y: y[:, :2], "its error of inf is above the bound"),
        (lambda y: y.double(), "its error of inf is above the bound"),
        (fail, "it failed to run: RuntimeError: out of resource: shared memory"),
    ],
)
def test_a_wrong_or_failing_kernel_is_demoted_with_the_reason(
    candidates: Callable[..., dict[str, Stub]],
    change: Callable[[Tensor], Tensor],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    candidates(wrong=(change, 1e-3), right=(lambda y: y, 2e-3))
    model, x = layer()
    fast = updp_rt.accelerate(model, x)
    (row,) = rows(fast)
    assert row.kernel == "right"
    assert reason in row.demoted["wrong"]
    kept = table_for(x.device).entries[row.problem]
    # Whether results agree depends on the values met, so another model may find it right: that is not kept.
    assert ("wrong" in kept.times_ms, "wrong" in kept.failed) == ((False, True) if change is fail else (True, False))
    assert caplog.text.count("wrong is not used for") == 1
    assert torch.equal(fast(x), model(x))
    for known in (True, False):  # whether the demotion is in the table already
        if not known:
            table_for(x.device).entries.clear()
        with pytest.raises(updp_rt.AccelerationError, match=f"wrong is not fit for .*: {reason}"):
            updp_rt.accelerate(model, x, strict=True)


def test_no_candidate_left_is_an_error_and_leaves_the_model(candidates: Callable[..., dict[str, Stub]]) -> None:
    candidates(wrong=(lambda y: y + 1, 1e-3))
    model, x = layer()
    with pytest.raises(ValueError, match="every candidate for linear 4x5 3x5 float32 cpu failed"):
        updp_rt.accelerate(model, x, inplace=True)
    assert type(model[0]) is nn.Linear


def test_a_warm_table_measures_nothing_and_packs_only_the_winner(
    candidates: Callable[..., dict[str, Stub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = candidates(slow=(lambda y: y, 2e-3), fast=(lambda y: y, 1e-3))
    model, x = layer()
    updp_rt.accelerate(model, x)
    forget_tables()  # as a new process would
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda *_, **__: pytest.fail("it measured again"))
    before = made["slow"].prepared
    assert rows(updp_rt.accelerate(model, x))[0].kernel == "fast"
    assert made["slow"].prepared == before


def test_a_table_is_not_trusted_blindly(
    candidates: Callable[..., dict[str, Stub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first use in each process is checked, whatever the table says."""
    made = candidates(slow=(lambda y: y, 2e-3), fast=(lambda y: y, 1e-3))
    model, x = layer()
    updp_rt.accelerate(model, x)
    forget_tables()
    monkeypatch.setattr(dispatch, "_checked", set())
    made["fast"].change = lambda y: y * 1.01
    (row,) = rows(updp_rt.accelerate(model, x))
    assert row.kernel == "slow"
    assert "above the bound" in row.demoted["fast"]
    made["fast"].change = lambda y: y
    assert rows(updp_rt.accelerate(model, x))[0].kernel == "fast", "a disagreement is not kept"


def short_of_memory(y: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("tried to allocate 8 GiB")


def test_short_memory_is_not_kept_for_a_kernel(candidates: Callable[..., dict[str, Stub]]) -> None:
    made = candidates(fast=(short_of_memory, 1e-3), slow=(lambda y: y, 2e-3))
    model, x = layer()
    (row,) = rows(updp_rt.accelerate(model, x))
    assert row.kernel == "slow"
    assert "tried to allocate 8 GiB" in row.demoted["fast"]
    made["fast"].change = lambda y: y
    assert rows(updp_rt.accelerate(model, x))[0].kernel == "fast"


def outcome(model: nn.Module, x: Tensor) -> Tensor | str:
    """The result, or the error's words."""
    try:
        return model(x)
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize(
    "spoil",
    [Tensor.bfloat16, Tensor.double, Tensor.byte, lambda x: x[..., :-1], lambda x: x.flatten(), lambda x: x[None]],
)
@pytest.mark.parametrize(
    ("make", "shape"), [(lambda: nn.Linear(5, 3), (4, 5)), (lambda: nn.Conv2d(3, 4, 3), (2, 3, 7, 7))]
)
def test_a_call_that_torch_refuses_raises_torchs_error_and_nothing_is_kept(
    make: Callable[[], nn.Module], shape: tuple[int, ...], spoil: Callable[[Tensor], Tensor], own_table: Path
) -> None:
    model, x = nn.Sequential(make()).eval(), torch.randn(shape)
    fast = updp_rt.accelerate(model, x)
    (path,) = own_table.glob("tuned/*.json")
    before = path.read_text()
    with torch.no_grad():
        wanted, found = (outcome(each, spoil(x)) for each in (model, fast))
    if isinstance(wanted, str):
        assert found == wanted
        updp_rt.prewarm(fast, x)
        assert path.read_text() == before
    else:  # torch takes it
        assert torch.allclose(found, wanted, atol=1e-5)
    forget_tables()
    assert len(rows(updp_rt.accelerate(model, x))) == 1


def test_an_image_without_a_batch_is_taken_as_torch_takes_it() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), torch.randn(3, 9, 7)
    fast = updp_rt.accelerate(model, x[None])
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5)
        assert fast(x).shape == (2, 7, 5)
    with torch.no_grad():
        assert torch.allclose(updp_rt.accelerate(model, x)(x), model(x), atol=1e-5)  # the example itself may lack it


def test_a_table_that_says_the_reference_fails_is_not_believed(own_table: Path) -> None:
    model, x = layer()
    updp_rt.accelerate(model, x, backends=["reference"])
    (path,) = own_table.glob("tuned/*.json")
    data = json.loads(path.read_text())
    for entry in data["entries"].values():
        entry["failed"] = {"reference": "it failed to run: RuntimeError: expected m1 and m2 to have the same dtype"}
    path.write_text(json.dumps(data))
    forget_tables()
    (row,) = rows(updp_rt.accelerate(model, x, backends=["reference"]))
    assert row.kernel == "reference"


def test_nothing_is_measured_while_a_graph_is_captured(
    candidates: Callable[..., dict[str, Stub]], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates(fast=(lambda y: y, 1e-3), reference=(lambda y: y, 2e-3))
    model, x = layer()
    fast = updp_rt.accelerate(model, x)
    monkeypatch.setattr(dispatch, "capturing", lambda device: True)
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda *_, **__: pytest.fail("it measured"))
    with torch.no_grad():
        assert torch.equal(fast(x[:2]), model(x[:2]))  # a new shape: the surest candidate
        assert len(rows(fast)) == 1, "what is only good enough for a capture is not kept"
    monkeypatch.setattr(dispatch, "capturing", lambda device: False)
    monkeypatch.setattr(dispatch, "time_side_by_side", lambda calls, **_: dict.fromkeys(calls, 1e-3))
    updp_rt.prewarm(fast, x[:2])
    assert [row.problem for row in rows(fast)] == ["linear 4x5 3x5 float32 cpu", "linear 2x5 3x5 float32 cpu"]


def test_backends_can_be_restricted() -> None:
    model, x = layer()
    for name in ("vendor", "reference"):
        (row,) = rows(updp_rt.accelerate(model, x, backends=[name]))
        assert row.kernel.split(":")[0] == name
    with pytest.raises(ValueError, match="no backend among triton runs linear 4x5 3x5 float32 cpu: triton: Triton"):
        updp_rt.accelerate(model, x, backends=["triton"])


def test_the_table_file_says_what_it_is_valid_for(own_table: Path) -> None:
    updp_rt.accelerate(*layer())
    (path,) = own_table.glob("tuned/*.json")
    data = json.loads(path.read_text())
    assert set(data["environment"]) == {"device", "torch", "kernels"}
    entry = data["entries"]["linear 4x5 3x5 float32 cpu"]
    own = {"vendor:packed"} if torch.backends.mkl.is_available() else set()
    assert set(entry["times_ms"]) == {"onednn:matmul", "vendor:epilogue", "reference"} | own
    assert all(ms > 0 for ms in entry["times_ms"].values())


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"schema": 2}', '{"schema": 2, "environment": {}, "entries": 3}', "\0\1", "[" * 100_000),
        '{"schema": 2, "environment": {}, "entries": {"p": {"times_ms": {"x": NaN}, "failed": {}}}}',
        '{"schema": 2, "environment": {}, "entries": {"p": {"times_ms": {"x": -1}, "failed": {}}}}',
    ],
    ids=range(8),
)
def test_a_damaged_table_is_left_aside(own_table: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    updp_rt.accelerate(*layer())
    (path,) = own_table.glob("tuned/*.json")
    if "environment" in content:
        content = json.dumps(json.loads(content) | {"environment": json.loads(path.read_text())["environment"]})
    path.write_text(content)
    forget_tables()
    assert rows(updp_rt.accelerate(*layer()))
    assert "is damaged and left aside" in caplog.text
    json.loads(path.read_text())


def test_a_table_of_another_environment_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    mine = Table({"device": "a"}, path)
    mine.keep("p", Entry({"x": 1.0}))
    mine.save()
    assert Table({"device": "a"}, path).entries["p"].times_ms == {"x": 1.0}
    assert Table({"device": "b"}, path).entries == {}


def test_processes_keep_each_others_entries(tmp_path: Path) -> None:
    tables = [Table({"device": "a"}, tmp_path / "table.json") for _ in range(2)]
    for index, table in enumerate(tables):
        table.keep(f"p{index}", Entry({"x": 1.0}))
        table.save()
    assert set(Table({"device": "a"}, tmp_path / "table.json").entries) == {"p0", "p1"}


def test_what_a_thread_learns_while_another_writes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, write = Table({"device": "a"}, tmp_path / "table.json"), Table._write

    def slow_write(self: Table, path: Path, entries: dict[str, Entry]) -> None:
        self.keep("later", Entry({"x": 1.0}))
        write(self, path, entries)

    table.keep("first", Entry({"x": 1.0}))
    with monkeypatch.context() as slow:
        slow.setattr(Table, "_write", slow_write)
        table.save()
    table.save()
    assert set(Table({"device": "a"}, table.path).entries) == {"first", "later"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_process_forked_while_a_thread_measures_runs(candidates: Callable[..., dict[str, Stub]]) -> None:
    candidates(reference=(lambda y: y, 1e-3))
    model, x = layer()
    fast = updp_rt.accelerate(model, x)
    measuring, forked = threading.Event(), threading.Event()

    def measure() -> None:
        with dispatch._lock:
            measuring.set()
            forked.wait()

    thread = threading.Thread(target=measure)
    thread.start()
    measuring.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it
        with torch.no_grad():
            os._exit(0 if fast(x[:2]).shape == (2, 3) else 1)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_cache_that_cannot_be_written_is_only_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "file"))
    forget_tables()
    assert rows(updp_rt.accelerate(*layer()))
    assert "could not be kept" in caplog.text


def test_each_refusal_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("updp_rt.backends.base._logged", set())
    caplog.set_level(logging.INFO, "updp_rt")
    for _ in range(2):
        updp_rt.accelerate(*layer())
    assert caplog.text.count("triton does not run linear: Triton kernels run on GPUs") == 1
    assert BACKENDS["triton"].name == "triton"


def copied_sources(folder: Path) -> list[Path]:
    """The files of all backends, as a package of its own in `folder`."""
    for name in {name for backend in BACKENDS for name in device.source_digests(backend)}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((Path(updp_rt.__file__).parent / name).read_bytes())
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_table_depends_on_the_text_of_every_file_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = copied_sources(tmp_path)

    def hashes() -> dict[str, str]:
        device.source_digests.cache_clear()
        return {backend: device.source_hash(backend) for backend in BACKENDS}

    before, table = hashes(), device.environment(torch.device("cpu"))["kernels"]
    monkeypatch.setattr(updp_rt, "__file__", str(tmp_path / "__init__.py"))
    assert hashes() == before
    listed = {backend: device.source_digests(backend) for backend in BACKENDS}
    for path in files:
        name, text = path.relative_to(tmp_path).as_posix(), path.read_bytes()
        path.write_bytes(text + b"\n")
        changed = {backend for backend, digest in hashes().items() if digest != before[backend]}
        assert changed == {backend for backend, found in listed.items() if name in found} != set()
        assert device.environment(torch.device("cpu"))["kernels"] != table
        path.write_bytes(text)
    device.source_digests.cache_clear()
