"""The launcher against drivers that record: what it passes on, what it refuses, what it keeps alive."""

import gc
import math
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.launcher.objects import bundle, code_object
from tests.launcher.recorder import ADDRESS, Recorder, compile_recorder
from updp_rt._launcher import CodeObjectError, Driver, DriverError

ROOT = Path(__file__).resolve().parents[2]
ONE = (1, 1, 1)
WAVE = (64, 1, 1)
SIZES = (1, 2, 3, ADDRESS, 4.0)  # arguments for kernels.hip's `sizes`


@pytest.fixture(scope="session")
def drivers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drivers")
    return {kind: Recorder(kind, folder / f"{kind}.so") for kind in ("hip", "cuda")}


@pytest.fixture
def hip(drivers):
    return drivers["hip"]


@pytest.fixture
def cuda(drivers):
    return drivers["cuda"]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, from the repository's root."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


class TestArguments:
    def test_are_told(self, hip):
        kernel = hip.kernel("sizes")
        assert [(kind, size) for _, kind, size in kernel.arguments] == [
            ("value", 1),
            ("value", 8),
            ("value", 2),
            ("address", 8),
            ("value", 4),
        ]

    def test_reach_the_driver(self, hip):
        hip.kernel("sizes").launch((3, 4, 5), (16, 2, 2), 512, ADDRESS, (-1, 2**63, 65535, ADDRESS, 0.1))
        assert hip.shape() == (3, 4, 5, 16, 2, 2, 512)
        assert hip.stream == ADDRESS
        assert hip.word(0, 1) == b"\xff"
        assert hip.word(1, 8) == struct.pack("<Q", 2**63)
        assert hip.word(2, 2) == b"\xff\xff"
        assert hip.word(3, 8) == struct.pack("<Q", ADDRESS)
        assert hip.word(4, 4) == struct.pack("<f", 0.1)

    def test_come_as_a_list_too(self, hip):
        hip.kernel("sizes").launch(ONE, WAVE, 0, 0, list(SIZES))
        assert hip.word(2, 2) == struct.pack("<h", 3)

    @pytest.mark.parametrize(
        ("place", "value", "packed"),
        [
            (0, -128, b"\x80"),
            (0, 255, b"\xff"),
            (0, True, b"\x01"),
            (1, -(2**63), struct.pack("<q", -(2**63))),
            (1, 2**64 - 1, b"\xff" * 8),
            (1, 1e300, struct.pack("<d", 1e300)),
            (1, b"12345678", b"12345678"),
            (2, b"\x00\x3c", b"\x00\x3c"),
            (3, None, bytes(8)),
            (3, 2**64 - 1, b"\xff" * 8),
            (4, -1, b"\xff" * 4),
            (4, 2**32 - 1, b"\xff" * 4),
            (4, math.inf, struct.pack("<f", math.inf)),
            (4, -math.inf, struct.pack("<f", -math.inf)),
            (4, 3.4028234e38, b"\xff\xff\x7f\x7f"),
        ],
    )
    def test_fill_their_range(self, hip, place, value, packed):
        arguments = list(SIZES)
        arguments[place] = value
        hip.kernel("sizes").launch(ONE, WAVE, 0, 0, arguments)
        assert hip.word(place, len(packed)) == packed

    @pytest.mark.parametrize(
        ("place", "value", "error"),
        [
            (0, 256, OverflowError),
            (0, -129, OverflowError),
            (0, 1.0, TypeError),
            (0, b"12", ValueError),
            (1, 2**64, OverflowError),
            (1, -(2**63) - 1, OverflowError),
            (1, None, TypeError),
            (2, 65536, OverflowError),
            (2, 0.5, TypeError),
            (3, -1, OverflowError),
            (3, 2**64, OverflowError),
            (3, 1.0, TypeError),
            (3, True, TypeError),
            (3, b"12345678", TypeError),
            (4, 2**32, OverflowError),
            (4, -(2**31) - 1, OverflowError),
            (4, 3.5e38, OverflowError),
            (4, "1", TypeError),
        ],
    )
    def test_are_refused_by_place(self, hip, place, value, error):
        kernel = hip.kernel("sizes")
        arguments = list(SIZES)
        arguments[place] = value
        with pytest.raises(error, match=f"kernel sizes: argument {place}"):
            kernel.launch(ONE, WAVE, 0, 0, arguments)
        assert hip.calls() == []

    def test_are_counted(self, hip):
        for arguments in (SIZES[:4], (*SIZES, 1), ()):
            with pytest.raises(TypeError, match=f"sizes takes 5 arguments, got {len(arguments)}"):
                hip.kernel("sizes").launch(ONE, WAVE, 0, 0, arguments)
        with pytest.raises(TypeError, match="tuple or a list"):
            hip.kernel("sizes").launch(ONE, WAVE, 0, 0, "abcde")

    def test_of_a_struct_are_its_bytes(self, hip):
        kernel = hip.kernel("line")
        kernel.launch(ONE, WAVE, 0, 0, (ADDRESS, None, struct.pack("<dd", 0.25, 3.0), 7))
        assert hip.word(2, 8) == struct.pack("<d", 0.25)
        assert hip.word(3, 4) == struct.pack("<i", 7)
        for other in (1, 1.0, bytes(15), bytes(17)):
            with pytest.raises((TypeError, ValueError), match="argument 2"):
                kernel.launch(ONE, WAVE, 0, 0, (ADDRESS, None, other, 7))


class TestShape:
    @pytest.mark.parametrize("grid", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
    def test_no_empty_grid(self, hip, grid):
        with pytest.raises(ValueError, match="kernel sizes: a grid of"):
            hip.kernel("sizes").launch(grid, WAVE, 0, 0, SIZES)

    @pytest.mark.parametrize("block", [(0, 1, 1), (65, 1, 1), (8, 8, 2), (2**31, 2**31, 4), (2**32 - 1,) * 3])
    def test_block_within_the_kernels_bound(self, hip, block):
        kernel = hip.kernel("one_wave")
        assert kernel.max_workgroup_size == 64
        with pytest.raises(ValueError, match=r"kernel one_wave: a block of .* lanes, expected 1 to 64"):
            kernel.launch(ONE, block, 0, 0, (ADDRESS,))
        kernel.launch(ONE, (8, 8, 1), 0, 0, (ADDRESS,))

    def test_lds_within_a_workgroups(self, hip):
        kernel = hip.kernel("neighbour")
        assert kernel.lds == 1024
        kernel.launch(ONE, WAVE, 65536 - 1024, 0, (ADDRESS,))
        for dynamic in (65536 - 1023, 2**32 - 1):
            with pytest.raises(ValueError, match=r"kernel neighbour: 1024 static and .* a workgroup has 65536"):
                kernel.launch(ONE, WAVE, dynamic, 0, (ADDRESS,))

    def test_numbers_that_are_none(self, hip):
        for grid in ((-1, 1, 1), (1, 1), (2**32, 1, 1), (1.0, 1, 1)):
            with pytest.raises(TypeError, match="incompatible function arguments"):
                hip.kernel("sizes").launch(grid, WAVE, 0, 0, SIZES)


class TestLoading:
    def test_code_of_another_architecture(self, hip):
        with pytest.raises(CodeObjectError, match="for gfx90a, not for gfx908"):
            hip.driver.load(code_object("gfx90a"), "gfx908")
        both = {f"hipv4-amdgcn-amd-amdhsa--{arch}": code_object(arch) for arch in ("gfx906", "gfx908")}
        assert hip.driver.load(bundle(both), "gfx908").kernel("scale").max_workgroup_size == 1024

    def test_damaged_code_never_reaches_the_driver(self, hip):
        hip.calls()
        with pytest.raises(CodeObjectError):
            hip.driver.load(code_object()[:-1], "gfx908")
        assert hip.calls() == []

    def test_unknown_kernel(self, hip):
        with pytest.raises(CodeObjectError, match=r"no kernel other; there are: .*scale"):
            hip.driver.load(code_object(), "gfx908").kernel("other")

    def test_refusals_carry_the_drivers_text_and_the_kernels_name(self, drivers):
        for recorder, arguments, unit in ((drivers["hip"], SIZES, "HIP"), (drivers["cuda"], (1, 2, 3, 4), "CUDA")):
            kernel = recorder.kernel("sizes")
            recorder.refuse(719)
            try:
                with pytest.raises(DriverError) as refusal:
                    kernel.launch(ONE, WAVE, 0, 0, arguments)
            finally:
                recorder.refuse(0)
            assert "kernel sizes: launching" in str(refusal.value)
            assert f"the recorder's text ({unit} error 719)" in str(refusal.value)
            with pytest.raises(DriverError, match="allocating 2097152 bytes failed"):
                recorder.driver.malloc(2 << 20)

    def test_unknown_kind(self):
        with pytest.raises(ValueError, match="kind is hip or cuda, got opencl"):
            Driver("opencl")

    def test_missing_library(self, tmp_path):
        with pytest.raises(DriverError, match=r"cannot open the library .*missing.so"):
            Driver("hip", str(tmp_path / "missing.so"))

    def test_library_without_the_functions(self, drivers):
        with pytest.raises(DriverError, match="has no function cuInit"):
            Driver("cuda", str(drivers["hip"].library))

    def test_without_any_driver(self):
        script = """if True:
            import ctypes
            from updp_rt import _launcher
            for kind, name in (("hip", "libamdhip64.so"), ("cuda", "libcuda.so.1")):
                try:
                    ctypes.CDLL(name)
                except OSError:
                    try:
                        _launcher.Driver(kind)
                    except _launcher.DriverError as error:
                        assert name in str(error) and "install" in str(error), error
                    else:
                        raise SystemExit(f"{kind} opened")
        """
        done = run(script)
        assert done.returncode == 0, done.stderr

    def test_takes_the_runtime_that_is_loaded(self, tmp_path):
        library = compile_recorder("hip", tmp_path / "libamdhip64.so.6.4")
        script = "import ctypes, sys; from updp_rt._launcher import Driver; ctypes.CDLL(sys.argv[1]); Driver('hip')"
        done = run(script, str(library))
        assert done.returncode == 0, done.stderr


class TestLaunch:
    def test_does_nothing_else(self, drivers):
        for recorder, arguments in ((drivers["hip"], SIZES), (drivers["cuda"], (1, 2, 3, 4))):
            kernel = recorder.kernel("sizes")
            kernel.launch(ONE, WAVE, 0, 0, arguments)
            assert recorder.calls() == ["launch"]

    def test_from_many_threads(self, hip):
        kernel, before = hip.kernel("sizes"), hip.launches

        def launch() -> None:
            for _ in range(500):
                kernel.launch(ONE, WAVE, 0, 0, SIZES)

        threads = [threading.Thread(target=launch) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert hip.launches - before == 4000

    def test_lets_other_threads_run(self, hip):
        kernel, errors = hip.kernel("sizes"), []

        def launch() -> None:
            try:
                kernel.launch(ONE, WAVE, 0, 0, SIZES)
            except DriverError as error:
                errors.append(error)

        hip.shut(True)
        thread = threading.Thread(target=launch)
        thread.start()
        hip.shut(False)  # under the GIL: were it held by the launch, that would have waited in vain
        thread.join()
        assert errors == []


class TestLifetime:
    def test_a_kernel_keeps_its_module_and_driver(self, tmp_path):
        recorder = Recorder("hip", tmp_path / "alive.so")
        kernel = recorder.kernel("sizes")
        del recorder.driver
        gc.collect()
        kernel.launch(ONE, WAVE, 0, 0, SIZES)
        assert recorder.modules == 1
        del kernel
        gc.collect()
        assert recorder.modules == 0

    @pytest.mark.parametrize(("ending", "unloads"), [("del kernel", 1), ("pass", 0), ("keep = [kernel]", 0)])
    def test_nothing_is_unloaded_at_exit(self, hip, tmp_path, ending, unloads):
        code = tmp_path / "code"
        code.write_bytes(code_object())
        script = f"""if True:
            import sys
            from updp_rt._launcher import Driver
            kernel = Driver("hip", sys.argv[1]).load(open(sys.argv[2], "rb").read(), "gfx908").kernel("scale")
            {ending}
        """
        done = run(script, str(hip.library), str(code))
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("unloaded") == unloads

    def test_a_forked_child_is_told(self, hip, tmp_path):
        code = tmp_path / "code"
        code.write_bytes(code_object())
        script = """if True:
            import os, sys
            from updp_rt._launcher import Driver, DriverError
            driver = Driver("hip", sys.argv[1])
            module = driver.load(open(sys.argv[2], "rb").read(), "gfx908")
            kernel = module.kernel("one_wave")
            child = os.fork()
            if child == 0:
                uses = (
                    lambda: kernel.launch((1, 1, 1), (64, 1, 1), 0, 0, (0,)),
                    lambda: module.kernel("scale"),
                    lambda: driver.malloc(1),
                    lambda: driver.synchronize(),
                )
                told = 0
                for use in uses:
                    try:
                        use()
                    except DriverError as error:
                        told += "fork" in str(error)
                del uses, kernel, module
                os._exit(0 if told == 4 else 1)
            assert os.waitpid(child, 0)[1] == 0
            kernel.launch((1, 1, 1), (64, 1, 1), 0, 0, (0,))
            sys.stderr.write("parent ")
            del kernel, module
        """
        done = run(script, str(hip.library), str(code))
        assert done.returncode == 0, done.stderr
        assert done.stderr == "parent unloaded\n"


class TestMemory:
    def test_calls_reach_the_driver(self, hip):
        hip.calls()
        address = hip.driver.malloc(16)
        hip.driver.copy_to_device(address, b"x" * 16)
        hip.driver.copy_to_host(bytearray(16), address)
        hip.driver.register(address, 16)
        hip.driver.unregister(address)
        hip.driver.free(address)
        hip.driver.synchronize()
        assert hip.calls() == ["malloc", "copy", "copy", "register", "unregister", "free", "synchronize"]

    def test_copies_into_writable_buffers_only(self, hip):
        with pytest.raises(BufferError):
            hip.driver.copy_to_host(b"x" * 16, ADDRESS)
        with pytest.raises(TypeError):
            hip.driver.copy_to_device(ADDRESS, 16)


class TestCuda:
    def test_arguments_have_the_drivers_sizes(self, cuda):
        kernel = cuda.kernel("any")
        assert [argument[1:] for argument in kernel.arguments] == [("unknown", 8)] * 2 + [("value", 4)] * 2
        kernel.launch(ONE, WAVE, 0, 0, (None, 0.5, -1, 0.25))
        assert cuda.word(0, 8) == bytes(8)
        assert cuda.word(1, 8) == struct.pack("<d", 0.5)
        assert cuda.word(2, 4) == b"\xff" * 4
        assert cuda.word(3, 4) == struct.pack("<f", 0.25)

    def test_shared_memory_beyond_48_kib_is_allowed_at_load(self, cuda):
        module = cuda.driver.load(b"cubin", "sm_90")
        cuda.calls()
        kernel = module.kernel("any")
        assert cuda.calls() == ["function", "set_shared"]
        assert (kernel.lds, kernel.max_workgroup_size) == (1024, 512)
        with pytest.raises(ValueError, match="a workgroup has 232448"):
            kernel.launch(ONE, WAVE, 232448 - 1023, 0, (0, 0, 0, 0))

    def test_a_thread_without_a_context_gets_the_modules(self, cuda):
        kernel = cuda.kernel("any")
        failures = []

        def launch() -> None:
            try:
                kernel.launch(ONE, WAVE, 0, 0, (0, 0, 0, 0))
            except DriverError as error:
                failures.append(error)

        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
        assert failures == []
        assert cuda.calls() == ["set_context", "launch"]

    def test_a_kernel_that_is_missing(self, cuda):
        with pytest.raises(DriverError, match="kernel missing: finding it"):
            cuda.kernel("missing")
