"""Graphs of the stand-in: what is launched on a stream under capture is recorded, and runs when the graph does."""

import ctypes
import threading

import numpy as np
import pytest

from tests.launcher.objects import code_object
from tests.launcher.test_standin import INVALID_VALUE, LIBRARY, ONE, Hip, read
from updp_rt._launcher import Driver, DriverError

GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
ILLEGAL_STATE, UNSUPPORTED, INVALIDATED, IMPLICIT, WRONG_THREAD = 401, 900, 901, 906, 908
CONTEXT_IS_DESTROYED = 709


@pytest.fixture(scope="module")
def hip():
    return Hip()


@pytest.fixture(scope="module")
def driver():
    return Driver("hip", LIBRARY)


@pytest.fixture(scope="module")
def scale(driver):
    """``y = factor * x`` by our launcher."""
    kernel = driver.load(code_object(), "gfx908").kernel("scale")
    return lambda x, y, factor, stream: kernel.launch((2, 1, 1), (64, 1, 1), 0, stream.value or 0, (x, y, factor, 100))


@pytest.fixture
def stream(hip):
    made = hip.new("hipStreamCreate")
    yield made
    assert hip.hipStreamDestroy(made) == 0


@pytest.fixture
def memory(driver):
    """Three blocks of 100 floats, all NaN."""
    blocks = [driver.malloc(400) for _ in range(3)]
    yield blocks
    for block in blocks:
        driver.free(block)


def floats(driver: Driver, block: int) -> np.ndarray:
    return read(driver, block, np.empty(100, np.float32))


def end(hip, stream) -> tuple[int, ctypes.c_void_p]:
    graph = ctypes.c_void_p(1)
    return hip.hipStreamEndCapture(stream, ctypes.byref(graph)), graph


def status(hip, stream) -> int:
    found = ctypes.c_int(-1)
    assert hip.hipStreamIsCapturing(stream, ctypes.byref(found)) == 0
    return found.value


def test_recorded_launches_run_with_the_graph_in_their_order(hip, driver, scale, stream, memory):
    source, between, target = memory
    assert status(hip, stream) == 0
    assert hip.hipStreamBeginCapture(stream, THREAD_LOCAL) == 0
    assert status(hip, stream) == 1
    scale(source, between, 2.0, stream)
    scale(between, target, 3.0, stream)
    code, graph = end(hip, stream)
    assert code == 0
    assert status(hip, stream) == 0
    count = ctypes.c_size_t()
    assert hip.hipGraphGetNodes(graph, None, ctypes.byref(count)) == 0
    assert count.value == 2
    executable = hip.new("hipGraphInstantiate", graph, None, None, ctypes.c_size_t(0))
    assert hip.hipGraphDestroy(graph) == 0
    assert np.isnan(floats(driver, between)).all(), "nothing ran while it was recorded"
    for factor in (1, 5):
        x = np.arange(100, dtype=np.float32) * factor
        driver.copy_to_device(source, x)
        assert hip.hipGraphLaunch(executable, stream) == 0
        assert hip.hipStreamSynchronize(stream) == 0
        assert (floats(driver, target) == 6 * x).all()
    assert hip.hipGraphExecDestroy(executable) == 0
    assert hip.hipGraphLaunch(executable, stream) == INVALID_VALUE
    assert hip.hipGraphExecDestroy(executable) == INVALID_VALUE
    assert hip.hipGraphDestroy(graph) == INVALID_VALUE


def test_what_is_launched_elsewhere_meanwhile_runs_at_once(hip, driver, scale, stream, memory):
    source, target, _ = memory
    driver.copy_to_device(source, np.ones(100, np.float32))
    other = hip.new("hipStreamCreate")
    assert hip.hipStreamBeginCapture(stream, GLOBAL) == 0
    scale(source, target, 4.0, other)
    code, graph = end(hip, stream)
    assert code == 0
    assert (floats(driver, target) == 4).all()
    executable = hip.new("hipGraphInstantiate", graph, None, None, ctypes.c_size_t(0))
    assert hip.hipGraphLaunch(executable, None) == 0  # of nothing
    for done in (
        hip.hipGraphExecDestroy(executable),
        hip.hipGraphDestroy(graph),
        hip.hipStreamDestroy(other),
    ):
        assert done == 0


def test_a_fault_in_a_graph_names_its_kernel(hip, driver, scale, stream, memory):
    assert hip.hipStreamBeginCapture(stream, THREAD_LOCAL) == 0
    freed = 1 << 40
    scale(freed, memory[0], 1.0, stream)
    _, graph = end(hip, stream)
    executable = hip.new("hipGraphInstantiate", graph, None, None, ctypes.c_size_t(0))
    assert hip.hipGraphLaunch(executable, stream) == 719
    assert "scale" in hip.text(719)
    assert hip.hipGraphExecDestroy(executable) == hip.hipGraphDestroy(graph) == 0


# A call that may not be made while a capture goes on, by what it is refused with; it invalidates the capture.
FORBIDDEN = {
    "hipMalloc": (lambda hip: hip.hipMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(4)), UNSUPPORTED),
    "hipFree": (lambda hip: hip.hipFree(None), UNSUPPORTED),
    "hipHostRegister": (lambda hip: hip.hipHostRegister(ctypes.c_void_p(4096), ctypes.c_size_t(4), 0), UNSUPPORTED),
    "hipHostUnregister": (lambda hip: hip.hipHostUnregister(ctypes.c_void_p(4096)), UNSUPPORTED),
    "hipModuleUnload": (lambda hip: hip.hipModuleUnload(None), UNSUPPORTED),
    "hipDeviceSynchronize": (lambda hip: hip.hipDeviceSynchronize(), UNSUPPORTED),
    "hipMemcpyHtoD": (lambda hip: hip.hipMemcpyHtoD(None, None, ctypes.c_size_t(0)), IMPLICIT),
    "hipMemcpyDtoH": (lambda hip: hip.hipMemcpyDtoH(None, None, ctypes.c_size_t(0)), IMPLICIT),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_capture_forbids_invalidates_it(hip, scale, stream, memory, name):
    call, refusal = FORBIDDEN[name]
    assert hip.hipStreamBeginCapture(stream, THREAD_LOCAL) == 0
    assert call(hip) == refusal
    assert status(hip, stream) == 2
    with pytest.raises(DriverError, match="HIP error 901"):
        scale(memory[0], memory[1], 1.0, stream)
    code, graph = end(hip, stream)
    assert (code, graph.value) == (INVALIDATED, None)
    assert status(hip, stream) == 0
    assert call(hip) != refusal


def test_a_default_stream_and_waiting_are_no_part_of_a_capture(hip, scale, stream, memory):
    assert hip.hipStreamBeginCapture(None, GLOBAL) == UNSUPPORTED
    assert end(hip, None)[0] == ILLEGAL_STATE
    assert status(hip, None) == 0
    assert hip.hipStreamBeginCapture(stream, RELAXED) == 0
    with pytest.raises(DriverError, match="HIP error 906"):
        scale(memory[0], memory[1], 1.0, ctypes.c_void_p())
    assert end(hip, stream)[0] == INVALIDATED
    assert hip.hipStreamBeginCapture(stream, RELAXED) == 0
    assert hip.hipStreamSynchronize(stream) == UNSUPPORTED
    assert end(hip, stream)[0] == INVALIDATED


def test_captures_begin_and_end_once(hip, stream):
    assert hip.hipStreamBeginCapture(stream, 3) == INVALID_VALUE
    assert end(hip, stream)[0] == ILLEGAL_STATE
    assert hip.hipStreamBeginCapture(stream, GLOBAL) == 0
    assert hip.hipStreamBeginCapture(stream, GLOBAL) == ILLEGAL_STATE
    assert hip.hipGraphLaunch(None, stream) == UNSUPPORTED
    assert hip.hipStreamEndCapture(stream, None) == INVALID_VALUE
    code, graph = end(hip, stream)
    assert code == 0
    assert hip.hipGraphInstantiate(None, graph, None, None, ctypes.c_size_t(0)) == INVALID_VALUE
    assert hip.hipGraphDestroy(graph) == 0
    assert hip.hipGraphInstantiate(ctypes.byref(graph), graph, None, None, ctypes.c_size_t(0)) == INVALID_VALUE
    gone = hip.new("hipStreamCreate")
    assert hip.hipStreamDestroy(gone) == 0
    assert hip.hipStreamBeginCapture(gone, GLOBAL) == end(hip, gone)[0] == CONTEXT_IS_DESTROYED


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
def test_other_threads_are_bound_by_a_global_capture_alone(hip, stream, mode):
    found = []

    def elsewhere():
        place = ctypes.c_void_p()
        found.append(hip.hipMalloc(ctypes.byref(place), ctypes.c_size_t(4)))
        found.append(hip.hipFree(place))
        found.append(end(hip, stream)[0])

    assert hip.hipStreamBeginCapture(stream, mode) == 0
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    if mode == RELAXED:
        assert found == [0, 0, 0]
    else:
        bound = UNSUPPORTED if mode == GLOBAL else 0
        assert found == [bound, bound, WRONG_THREAD]
        assert end(hip, stream)[0] == (INVALIDATED if mode == GLOBAL else 0)


def test_launches_are_checked_when_they_are_recorded(hip, driver, stream):
    kernel = driver.load(code_object(), "gfx908").kernel("scale")
    assert hip.hipStreamBeginCapture(stream, THREAD_LOCAL) == 0
    with pytest.raises(DriverError, match="invalid configuration"):
        kernel.launch((2**26, 1, 1), (64, 1, 1), 0, stream.value, (0, 0, 1.0, 100))
    kernel.launch(ONE, (64, 1, 1), 0, stream.value, (0, 0, 1.0, 100))
    code, graph = end(hip, stream)
    assert code == hip.hipGraphDestroy(graph) == 0
