"""The model's arithmetic on work whose time is known by hand, and what must hold whatever the work."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updp_rt.projection import MI100, Launch, Projection, Traffic, Work, project

IDLE = Work(**dict.fromkeys((field.name for field in fields(Work)), 0.0))
NOTHING = Traffic(bytes=0, weights=0)
LATENCY = MI100.memory_latency / MI100.clock


def launch(workgroups: int = 120, waves: int = 4, lds: int = 0, vgprs: int = 32, **work: float) -> Launch:
    return Launch(workgroups, waves, vgprs=vgprs, agprs=0, sgprs=32, lds=lds, work=replace(IDLE, **work))


def test_an_mfma_a_wave_keeps_each_matrix_unit_busy() -> None:
    # Four waves, 100 MFMA of 64 cycles each: 6400 cycles on each of four SIMDs.
    found = project(launch(matrix=400, matrix_cycles=400 * 64, instructions=400, vgprs=24), NOTHING)
    assert found.resources["matrix"] == pytest.approx(6400 / 1.502e9)


def test_the_peak_of_the_matrix_units_is_the_data_sheets() -> None:
    # v_mfma_f32_32x32x8f16: 16384 multiplications and additions in 64 cycles.
    flops = 120 * 8 * 1000 * 4 * 16384
    found = project(launch(workgroups=120 * 8, matrix=4000, matrix_cycles=4000 * 64), NOTHING)
    assert flops / found.resources["matrix"] == pytest.approx(184.6e12, rel=1e-3)


def test_memory_bounds_what_only_moves_bytes() -> None:
    found = project(launch(), Traffic(bytes=10**9, weights=0))
    assert found.bound == "memory"
    assert found.time == pytest.approx(1e9 / 1.041e12 + LATENCY)


def test_each_resource_can_be_the_bound() -> None:
    work: dict[str, dict[str, float]] = {
        "matrix": {"matrix_cycles": 4e6},
        "vector": {"vector_cycles": 4e6},
        "lds": {"lds_cycles": 1e6},
        "latency": {"instructions": 4e6},
    }
    for bound, counts in work.items():
        assert project(launch(workgroups=960, vgprs=64, **counts), NOTHING).bound == bound, counts


def test_lines_bound_by_l2_on_the_whole_device_and_by_l1_on_one_cu() -> None:
    assert project(launch(workgroups=120, global_lines=1e6, l2_lines=1e6), NOTHING).bound == "l2"
    assert project(launch(workgroups=1, global_lines=1e6), NOTHING).bound == "l1"


def test_bank_conflicts_take_time() -> None:
    def time(conflicts: float) -> float:
        counts = {"lds_cycles": 1e6 + conflicts, "lds_conflict_cycles": conflicts}
        return project(launch(**counts), NOTHING).resources["lds"]

    assert time(1e6) == pytest.approx(2 * time(0))


def test_an_mfma_takes_a_turn_of_the_vector_unit() -> None:
    alone = project(launch(vector_cycles=4000), NOTHING).resources["vector"]
    both = project(launch(vector_cycles=4000, matrix=1000), NOTHING).resources["vector"]
    assert both == pytest.approx(2 * alone)


@pytest.mark.parametrize(("workgroups", "rounds", "tail"), [(1, 1, 119 / 120), (120, 1, 0), (121, 2, 119 / 240)])
def test_one_workgroup_too_many_costs_a_round(workgroups: int, rounds: int, tail: float) -> None:
    found = project(launch(workgroups=workgroups, matrix_cycles=4e6), NOTHING)
    assert found.resources["matrix"] == pytest.approx(rounds * 1e6 / 1.502e9)
    assert found.tail == pytest.approx(tail)


def test_more_resident_workgroups_hide_latency() -> None:
    work = {"instructions": 4e5, "workgroups": 120 * 8}
    full = project(launch(vgprs=64, **work), NOTHING)  # four waves a SIMD
    single = project(launch(vgprs=256, **work), NOTHING)
    assert single.resources["latency"] == pytest.approx(4 * full.resources["latency"])


def test_a_lone_wave_issues_and_stalls() -> None:
    found = project(replace(launch(instructions=400), stalls=5000), NOTHING)
    assert found.resources["latency"] == pytest.approx((400 + 5000) / 1.502e9)


def test_weights_beyond_half_of_l2_are_read_again_every_round() -> None:
    weights = 6 << 20
    traffic = Traffic(bytes=10**8, weights=weights)
    # 64 registers: four workgroups of four waves a CU, 480 on the device.
    once, thrice = (project(launch(workgroups=480 * n, vgprs=64), traffic).resources["memory"] for n in (1, 3))
    assert thrice - once == pytest.approx(2 * (2 << 20) / 1.041e12)


@pytest.mark.parametrize(
    ("registers", "lds", "waves", "resident"),
    [
        (64, 0, 4, 4),
        (65, 0, 4, 3),
        (24, 0, 4, 10),
        (64, 40000, 4, 1),
        (64, 16384, 4, 4),
        (128, 0, 8, 1),
        (24, 0, 1, 16),
    ],
)
def test_resident_workgroups(registers: int, lds: int, waves: int, resident: int) -> None:
    assert launch(vgprs=registers, lds=lds, waves=waves).resident == resident


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        project(launch(lds=70000), NOTHING)


COUNT = st.floats(0, 1e7)
WORK = st.builds(Work, **dict.fromkeys((field.name for field in fields(Work)), COUNT)).map(
    lambda work: replace(work, instructions=work.instructions + work.matrix)  # MFMA are among the instructions
)
LAUNCH = st.builds(
    Launch,
    workgroups=st.integers(1, 10_000),
    waves=st.sampled_from((1, 2, 4, 8)),
    vgprs=st.integers(1, 128),
    agprs=st.integers(0, 128),
    sgprs=st.integers(1, 100),
    lds=st.integers(0, 65536),
    work=WORK,
    stalls=COUNT,
)
TRAFFIC = st.builds(Traffic, bytes=st.integers(0, 10**10), weights=st.integers(0, 10**8))


@given(LAUNCH, TRAFFIC)
def test_no_resource_takes_longer_than_the_whole(given_launch: Launch, traffic: Traffic) -> None:
    found = project(given_launch, traffic)
    assert found.time == pytest.approx(max(found.resources.values()) + LATENCY)
    assert 0 <= found.tail < 1


@given(LAUNCH, TRAFFIC, st.sampled_from([field.name for field in fields(Work)]), COUNT)
def test_more_work_never_takes_less_time(given_launch: Launch, traffic: Traffic, name: str, more: float) -> None:
    grown = {name: getattr(given_launch.work, name) + more}
    if name == "matrix":
        grown["instructions"] = given_launch.work.instructions + more
    heavier = replace(given_launch, work=replace(given_launch.work, **grown))
    assert project(heavier, traffic).time >= project(given_launch, traffic).time * (1 - 1e-12)


@given(LAUNCH, TRAFFIC, st.integers(1, 1000))
def test_more_workgroups_never_take_less_time(given_launch: Launch, traffic: Traffic, more: int) -> None:
    larger = replace(given_launch, workgroups=given_launch.workgroups + more)
    assert project(larger, traffic).time >= project(given_launch, traffic).time * (1 - 1e-12)


@given(LAUNCH, TRAFFIC, st.floats(1, 4))
def test_a_faster_machine_is_faster(given_launch: Launch, traffic: Traffic, factor: float) -> None:
    def time(machine: float) -> Projection:
        bandwidths = {"hbm_bandwidth": MI100.hbm_bandwidth * machine, "l2_bandwidth": MI100.l2_bandwidth * machine}
        return project(given_launch, traffic, replace(MI100, clock=MI100.clock * machine, **bandwidths))

    assert time(factor).time == pytest.approx(time(1).time / factor)
