"""The stand-in for AMD's driver: kernels of kernels.hip run on it, and wrong calls get the error that HIP gives."""

import ctypes
import random
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.launcher.objects import bundle, code_object
from updp_rt import emulator
from updp_rt._launcher import Driver, DriverError

LIBRARY = str(Path(emulator.__file__).with_name("libamdhip64_standin.so"))
INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONFIGURATION, INVALID_DEVICE, INVALID_IMAGE = 1, 2, 9, 101, 200
NO_BINARY_FOR_GPU, INVALID_HANDLE, NOT_FOUND, CONTEXT_IS_DESTROYED, LAUNCH_FAILURE = 209, 400, 500, 709, 719
ALREADY_REGISTERED, NOT_REGISTERED = 712, 713
ONE = (1, 1, 1)


@pytest.fixture(scope="module")
def driver():
    return Driver("hip", LIBRARY)


@pytest.fixture(scope="module")
def module(driver):
    return driver.load(code_object(), "gfx908")


@pytest.fixture
def memory(driver):
    """Allocates like the driver, and frees what the test leaves."""
    addresses = []

    def allocate(values: np.ndarray) -> int:
        addresses.append(driver.malloc(values.nbytes))
        driver.copy_to_device(addresses[-1], values)
        return addresses[-1]

    yield allocate
    for address in addresses:
        driver.free(address)


class Hip:
    """The stand-in's functions as a C program calls them: each returns its status."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._library.hipGetErrorString.restype = ctypes.c_char_p

    def __getattr__(self, name):
        return getattr(self._library, name)

    def text(self, status: int) -> str:
        return self._library.hipGetErrorString(status).decode()

    def new(self, function: str, *arguments) -> ctypes.c_void_p:
        """The handle or address that a function puts where its first argument points."""
        place = ctypes.c_void_p()
        assert getattr(self._library, function)(ctypes.byref(place), *arguments) == 0
        return place


@pytest.fixture(scope="module")
def hip():
    return Hip()


def read(driver: Driver, address: int, like: np.ndarray) -> np.ndarray:
    values = np.empty_like(like)
    driver.copy_to_host(values, address)
    return values


class TestKernels:
    @pytest.mark.parametrize("version", [4, 5])
    def test_compute(self, driver, memory, version):
        n = random.randint(65, 300)
        x, y = np.random.default_rng().standard_normal(n), np.full(n + 5, np.nan)
        source, target = memory(x), memory(y)
        kernel = driver.load(code_object(version=version), "gfx908").kernel("line")
        grid = (-(-n // 64), 1, 1)
        kernel.launch(grid, (64, 1, 1), 0, 0, (source, target, struct.pack("<dd", 0.5, 3.0), n))
        found = read(driver, target, y)
        np.testing.assert_allclose(found[:n], 0.5 * x + 3.0, rtol=1e-15)
        assert np.isnan(found[n:]).all()

    def test_read_every_size_of_argument(self, module, driver, memory):
        target = memory(np.zeros(1))
        module.kernel("sizes").launch(ONE, ONE, 0, 0, (-3, 2**40, -500, target, 0.25))
        assert read(driver, target, np.zeros(1))[0] == 2**40 - 503 + 0.25

    def test_share_lds_between_waves(self, module, driver, memory):
        target = memory(np.full(256, -1, np.int32))
        module.kernel("neighbour").launch(ONE, (256, 1, 1), 4096, 0, (target,))
        assert (read(driver, target, np.zeros(256, np.int32)) == (np.arange(256) + 1) % 256).all()

    def test_reach_the_modules_variables(self, module, driver, memory):
        target = memory(np.zeros(4, np.float32))
        module.kernel("constants").launch(ONE, (64, 1, 1), 0, 0, (target,))
        assert read(driver, target, np.zeros(4, np.float32)).tolist() == [1, 2, 4, 8]

    def test_run_from_a_bundle(self, driver, memory):
        images = {f"hipv4-amdgcn-amd-amdhsa--{arch}": code_object(arch) for arch in ("gfx90a", "gfx908")}
        target = memory(np.zeros(64, np.int32))
        driver.load(bundle(images), "gfx908").kernel("one_wave").launch(ONE, (64, 1, 1), 0, 0, (target,))
        assert (read(driver, target, np.zeros(64, np.int32)) == np.arange(64)).all()

    def test_reach_registered_memory(self, module, driver):
        x, y = np.arange(100, dtype=np.float32), np.full(100, np.nan, np.float32)
        kernel = module.kernel("scale")
        arguments = (x.ctypes.data, y.ctypes.data, 3.0, 100)
        driver.register(x.ctypes.data, x.nbytes)
        with pytest.raises(DriverError, match="kernel scale: launching it failed: unspecified launch failure: "):
            kernel.launch((2, 1, 1), (64, 1, 1), 0, 0, arguments)
        driver.register(y.ctypes.data, y.nbytes)
        kernel.launch((2, 1, 1), (64, 1, 1), 0, 0, arguments)
        assert (y == 3 * x).all()
        driver.unregister(x.ctypes.data)
        driver.unregister(y.ctypes.data)
        with pytest.raises(DriverError, match="error 719"):
            kernel.launch((2, 1, 1), (64, 1, 1), 0, 0, arguments)

    def test_stay_within_live_blocks(self, module, driver, memory):
        x = memory(np.ones(64, np.float32))
        kernel = module.kernel("scale")
        short = memory(np.ones(63, np.float32))
        for reached, wanted in ((short, x), (x, short)):
            with pytest.raises(DriverError, match="error 719") as failure:
                kernel.launch(ONE, (64, 1, 1), 0, 0, (reached, wanted, 1.0, 64))
            assert "scale" in str(failure.value).removeprefix("kernel scale")
        freed = driver.malloc(256)
        driver.free(freed)
        with pytest.raises(DriverError, match="error 719"):
            kernel.launch(ONE, (64, 1, 1), 0, 0, (freed, x, 1.0, 64))
        kernel.launch(ONE, (64, 1, 1), 0, 0, (x, x, 1.0, 64))  # a failure leaves nothing behind

    def test_run_from_several_threads(self, module, driver):
        kernel = module.kernel("scale")
        failures = []

        def work(number: int) -> None:
            x, y = np.full(500, number, np.float32), np.zeros(500, np.float32)
            for factor in range(5):
                source, target = driver.malloc(x.nbytes), driver.malloc(y.nbytes)
                driver.copy_to_device(source, x)
                kernel.launch((8, 1, 1), (64, 1, 1), 0, 0, (source, target, float(factor), 500))
                driver.copy_to_host(y, target)
                driver.free(source)
                driver.free(target)
                if not (y == factor * number).all():
                    failures.append((number, factor))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    @pytest.mark.parametrize("options", [(0, 0, 0, 1), (1, 1, 0, 1), (2, 0, 7, 2)])
    def test_run_in_any_order(self, module, driver, memory, hip, options):
        x = np.arange(1000, dtype=np.float32)
        source, target = memory(x), memory(np.zeros_like(x))
        assert hip.standin_set_options(*options[:2], ctypes.c_uint64(options[2]), options[3]) == 0
        try:
            module.kernel("scale").launch((16, 1, 1), (64, 1, 1), 0, 0, (source, target, -2.0, 1000))
        finally:
            assert hip.standin_set_options(0, 0, ctypes.c_uint64(0), 1) == 0
        assert (read(driver, target, x) == -2 * x).all()
        assert hip.standin_set_options(3, 0, ctypes.c_uint64(0), 1) == INVALID_VALUE
        assert hip.standin_set_options(0, 2, ctypes.c_uint64(0), 1) == INVALID_VALUE


class TestMemory:
    def test_is_nan_when_fresh(self, driver):
        address = driver.malloc(1000)
        assert (read(driver, address, np.zeros(1000, np.uint8)) == 0xFF).all()
        driver.free(address)

    def test_of_no_bytes_is_null(self, driver):
        assert driver.malloc(0) == 0
        driver.free(0)

    def test_is_32_gib(self, hip):
        place = ctypes.c_void_p()
        assert hip.hipMalloc(ctypes.byref(place), ctypes.c_size_t((32 << 30) + 1)) == OUT_OF_MEMORY

    def test_is_freed_once_and_whole(self, hip):
        block = hip.new("hipMalloc", ctypes.c_size_t(100))
        assert hip.hipFree(ctypes.c_void_p(block.value + 4)) == INVALID_VALUE
        assert hip.hipFree(block) == 0
        assert hip.hipFree(block) == INVALID_VALUE
        assert hip.hipMalloc(None, ctypes.c_size_t(100)) == INVALID_VALUE

    @pytest.mark.parametrize("function", ["hipMemcpyHtoD", "hipMemcpyDtoH"])
    def test_is_copied_within_blocks(self, hip, function):
        block = hip.new("hipMalloc", ctypes.c_size_t(100))
        host = ctypes.create_string_buffer(200)

        def copy(offset: int, size: int) -> int:
            inside = ctypes.c_void_p(block.value + offset)
            ends = (inside, host) if function == "hipMemcpyHtoD" else (host, inside)
            return getattr(hip, function)(*ends, ctypes.c_size_t(size))

        assert [copy(0, 100), copy(50, 50), copy(0, 0)] == [0, 0, 0]
        for outside in ((0, 101), (50, 51), (100, 1), (-1, 1), (0, 2**64 - 1)):
            assert copy(*outside) == INVALID_VALUE
        assert "of a block of 100" in hip.text(INVALID_VALUE)
        assert hip.hipFree(block) == 0
        assert copy(0, 1) == INVALID_VALUE

    def test_of_the_host_is_registered_once(self, hip):
        data = (ctypes.c_char * 100)()
        size = ctypes.c_size_t(100)
        assert hip.hipHostUnregister(data) == NOT_REGISTERED
        assert hip.hipHostRegister(data, size, 0) == 0
        assert hip.hipHostRegister(data, size, 0) == ALREADY_REGISTERED
        tail = ctypes.c_void_p(ctypes.addressof(data) + 99)
        assert hip.hipHostRegister(tail, size, 0) == ALREADY_REGISTERED
        assert hip.hipHostUnregister(tail) == NOT_REGISTERED
        assert hip.hipFree(data) == INVALID_VALUE
        assert hip.hipHostUnregister(data) == 0
        assert hip.hipHostUnregister(data) == NOT_REGISTERED
        assert hip.hipHostRegister(None, size, 0) == INVALID_VALUE
        assert hip.hipHostRegister(data, ctypes.c_size_t(0), 0) == INVALID_VALUE


class TestModules:
    def test_are_for_gfx908(self, hip):
        place = ctypes.c_void_p()
        for other in (code_object("gfx90a"), bundle({"hipv4-amdgcn-amd-amdhsa--gfx906": code_object("gfx906")})):
            assert hip.hipModuleLoadData(ctypes.byref(place), other) == NO_BINARY_FOR_GPU
        assert hip.hipModuleLoadData(ctypes.byref(place), b"no code at all".ljust(64)) == INVALID_IMAGE
        assert hip.hipModuleLoadData(ctypes.byref(place), None) == INVALID_VALUE

    def test_are_unloaded_once(self, hip):
        module = hip.new("hipModuleLoadData", code_object())
        kernel = hip.new("hipModuleGetFunction", module, b"one_wave")
        assert hip.hipModuleUnload(module) == 0
        assert hip.hipModuleUnload(module) == INVALID_HANDLE
        place = ctypes.c_void_p()
        assert hip.hipModuleGetFunction(ctypes.byref(place), module, b"one_wave") == INVALID_HANDLE
        assert launch(hip, kernel, parameters=[ctypes.c_uint64(0)]) == INVALID_HANDLE

    def test_have_the_kernels_they_have(self, hip):
        module = hip.new("hipModuleLoadData", code_object())
        first, second = (hip.new("hipModuleGetFunction", module, b"scale").value for _ in range(2))
        assert first == second
        place = ctypes.c_void_p()
        assert hip.hipModuleGetFunction(ctypes.byref(place), module, b"other") == NOT_FOUND
        assert "scale" in hip.text(NOT_FOUND)
        assert hip.hipModuleUnload(module) == 0


def launch(hip, kernel, grid=ONE, block=(64, 1, 1), lds=0, stream=None, parameters=None, extra=None) -> int:
    """hipModuleLaunchKernel with kernelParams pointing to the `parameters`, or with `extra` as it is."""
    pointers = None
    if parameters is not None:
        pointers = (ctypes.c_void_p * len(parameters))(*(ctypes.addressof(value) for value in parameters))
    words = None if extra is None else (ctypes.c_void_p * len(extra))(*extra)
    return hip.hipModuleLaunchKernel(kernel, *grid, *block, lds, stream, pointers, words)


class TestLaunches:
    @pytest.fixture
    def loaded(self, hip):
        module = hip.new("hipModuleLoadData", code_object())
        yield module
        assert hip.hipModuleUnload(module) == 0

    @pytest.fixture
    def kernel(self, hip, loaded):
        return hip.new("hipModuleGetFunction", loaded, b"scale")

    @pytest.fixture
    def parameters(self, hip):
        block = hip.new("hipMalloc", ctypes.c_size_t(256))
        yield [ctypes.c_uint64(block.value), ctypes.c_uint64(block.value), ctypes.c_float(1), ctypes.c_int(64)]
        assert hip.hipFree(block) == 0

    @pytest.mark.parametrize(
        ("grid", "block", "lds", "status"),
        [
            (ONE, (64, 1, 1), 65536, 0),
            (ONE, (1024, 1, 1), 0, 0),
            ((0, 1, 1), (64, 1, 1), 0, INVALID_VALUE),
            ((1, 1, 0), (64, 1, 1), 0, INVALID_VALUE),
            (ONE, (0, 1, 1), 0, INVALID_CONFIGURATION),
            (ONE, (1025, 1, 1), 0, INVALID_VALUE),
            (ONE, (32, 32, 2), 0, INVALID_VALUE),
            (ONE, (2**16, 2**16, 2**16), 0, INVALID_VALUE),
            (ONE, (64, 1, 1), 65537, INVALID_VALUE),
            ((2**31, 1, 1), (1, 1, 1), 0, INVALID_VALUE),
            ((1, 65537, 1), (1, 1, 1), 0, INVALID_VALUE),
            ((2**26, 1, 1), (64, 1, 1), 0, INVALID_CONFIGURATION),
        ],
    )
    def test_of_impossible_shapes(self, hip, kernel, parameters, grid, block, lds, status):
        assert launch(hip, kernel, grid, block, lds, parameters=parameters) == status

    def test_beyond_the_kernels_bound(self, hip, loaded):
        bounded = hip.new("hipModuleGetFunction", loaded, b"one_wave")
        assert launch(hip, bounded, block=(65, 1, 1), parameters=[ctypes.c_uint64(0)]) == LAUNCH_FAILURE
        assert hip.text(LAUNCH_FAILURE) == "unspecified launch failure: a block of 65 lanes, launch bounds of 64"

    def test_of_no_kernel(self, hip, parameters):
        for handle in (None, ctypes.c_void_p(8)):
            assert launch(hip, handle, parameters=parameters) == INVALID_HANDLE

    def test_on_streams(self, hip, kernel, parameters):
        stream = hip.new("hipStreamCreate")
        for alive in (None, ctypes.c_void_p(1), ctypes.c_void_p(2), stream):
            assert launch(hip, kernel, stream=alive, parameters=parameters) == 0
            assert hip.hipStreamSynchronize(alive) == 0
        assert hip.hipStreamDestroy(stream) == 0
        assert hip.hipStreamDestroy(stream) == CONTEXT_IS_DESTROYED
        assert hip.hipStreamSynchronize(stream) == CONTEXT_IS_DESTROYED
        assert launch(hip, kernel, stream=stream, parameters=parameters) == INVALID_VALUE

    def test_with_a_buffer_of_arguments(self, hip, kernel, parameters):
        buffer = ctypes.create_string_buffer(b"".join(bytes(value) for value in parameters), 64)

        def run(size: int, tags=(1, 2, 3)) -> int:
            place = ctypes.c_size_t(size)
            return launch(
                hip,
                kernel,
                extra=[tags[0], ctypes.addressof(buffer), tags[1], ctypes.addressof(place), tags[2]],
            )

        assert [run(24), run(32)] == [0, 0]
        for size in (0, 23, 33, 2**40):
            assert run(size) == INVALID_VALUE
            assert f"a buffer of {size} bytes for arguments of 24" in hip.text(INVALID_VALUE)
        assert run(24, (2, 1, 3)) == INVALID_VALUE
        assert launch(hip, kernel) == INVALID_VALUE
        assert launch(hip, kernel, parameters=parameters, extra=[1, 0, 2, 0, 3]) == INVALID_VALUE


class TestDevice:
    def test_is_one(self, hip):
        number = ctypes.c_int(-1)
        assert hip.hipInit(0) == 0
        assert hip.hipGetDeviceCount(ctypes.byref(number)) == 0
        assert number.value == 1
        assert hip.hipGetDevice(ctypes.byref(number)) == 0
        assert number.value == 0
        assert hip.hipSetDevice(0) == 0
        assert hip.hipDeviceSynchronize() == 0
        assert hip.hipInit(1) == INVALID_VALUE
        assert hip.hipSetDevice(1) == INVALID_DEVICE
        assert hip.hipSetDevice(-1) == INVALID_DEVICE

    def test_explains_errors(self, hip):
        assert hip.text(0) == "no error"
        assert hip.text(12345) == "unknown error"
        assert hip.hipSetDevice(7) == INVALID_DEVICE
        assert hip.text(INVALID_DEVICE) == "invalid device ordinal: device 7 of 1"
        assert hip.text(OUT_OF_MEMORY) == "out of memory"
