"""Ahead-of-time compilation: compilers found and refused, objects whole or untouched, manifests that are believed."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from updp_rt._cache import cache_folder
from updp_rt.kernels.hip import build, compilers, manifest, objects
from updp_rt.kernels.hip.compilers import CompilerError, find_compiler
from updp_rt.kernels.hip.figures import Figures, amd_figures, count_instructions, nvidia_figures, occupancy
from updp_rt.kernels.hip.manifest import HipKernel, MissingObjectsError, read_manifest

FIGURES = Figures(vgprs=64, agprs=32, sgprs=40, spills=0, scratch=0, lds=8192, occupancy=4)
COPIES = 'while [ "$1" != -o ]; do last="$1"; shift; done; echo x >> "$0.calls"; cp "$last" "$2"'


@dataclass
class Place:
    """A folder of sources, one of objects, and one of compilers that is the whole path."""

    sources: Path
    objects: Path
    bin: Path

    def install(self, name: str, script: str, folder: Path | None = None) -> None:
        program = (folder or self.bin) / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{name} version 1"; exit; fi\n{script}\n')
        program.chmod(0o755)

    def calls(self, name: str) -> int:
        counted = self.bin / f"{name}.calls"
        return len(counted.read_text().split()) if counted.exists() else 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(*(tmp_path / name for name in ("sources", "sources/objects", "bin")))
    made.sources.mkdir()
    made.bin.mkdir()
    for tool in ("sh", "cp", "echo"):
        (made.bin / tool).symlink_to(str(shutil.which(tool)))
    for operator in ("linear", "epilogue"):
        (made.sources / f"{operator}.hip").write_text(f"code of {operator}")
    (made.sources / "shared.h").write_text("header")
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr(compilers, "ROCM", tmp_path / "rocm")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python/bin/python"))
    for variable in ("ROCM_PATH", "HIP_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("UPDP_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "SOURCES", made.sources)
    monkeypatch.setattr(objects, "PACKAGED", made.objects)
    monkeypatch.setattr(build, "amd_figures", _figures_of_copy)
    find_compiler.cache_clear()
    objects.load.cache_clear()
    yield made
    find_compiler.cache_clear()
    objects.load.cache_clear()


def _figures_of_copy(code: bytes) -> dict[str, Figures]:
    operator = code.decode().split()[-1]
    return {f"{operator}_float16_128x64x32w4": FIGURES, f"{operator}_float16_64x64x32w4_any": FIGURES}


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# compilers


def test_the_first_clang_that_really_compiles_is_taken(place: Place) -> None:
    place.install("clang-15", "echo 'error: unable to execute lld-15' >&2; exit 1")
    place.install("clang-16", COPIES)
    place.install("hipcc", COPIES)
    found = find_compiler("gfx90a")
    assert Path(found.program).name == "clang-16"
    assert found.version == "clang-16 version 1"
    assert "--offload-arch=gfx90a" in found.flags


def test_hipcc_serves_where_no_clang_does(place: Place) -> None:
    place.install("hipcc", COPIES)
    found = find_compiler("gfx942")
    assert Path(found.program).name == "hipcc"
    assert "--genco" in found.flags


@pytest.mark.parametrize(
    "program",
    [
        "rocm/bin/hipcc",
        "rocm/core-7.12/bin/hipcc",
        "rocm/llvm/bin/clang",
        "python/bin/hipcc",
        "here/bin/hipcc",
        "there/bin/hipcc",
    ],
)
def test_compilers_are_found_where_rocm_puts_them(
    program: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "here"))
    monkeypatch.setenv("HIP_PATH", str(tmp_path / "there"))
    path = tmp_path / program
    place.install(path.name, COPIES, path.parent)
    assert find_compiler("gfx908").program == str(path)


def test_the_path_comes_first_then_the_newest_rocm(place: Place, tmp_path: Path) -> None:
    for core in ("core-7.9", "core-7.12"):
        place.install("hipcc", COPIES, tmp_path / "rocm" / core / "bin")
    assert "core-7.12" in find_compiler("gfx908").program
    find_compiler.cache_clear()
    place.install("hipcc", COPIES)
    assert find_compiler("gfx908").program == str(place.bin / "hipcc")


def test_one_that_fails_does_not_hide_another_of_its_name(place: Place, tmp_path: Path) -> None:
    place.install("clang", "echo 'error: unknown target' >&2; exit 1")
    place.install("clang", COPIES, tmp_path / "rocm/llvm/bin")
    assert "rocm" in find_compiler("gfx908").program


def test_what_failed_and_what_to_install_is_said(place: Place) -> None:
    place.install("clang-15", "echo 'clang: error: invalid target ID gfx942; and more' >&2; exit 1")
    with pytest.raises(CompilerError, match=r"clang-15 \(invalid target ID gfx942.*install clang-19 and lld-19"):
        find_compiler("gfx942")
    with pytest.raises(CompilerError, match=r"no compiler for sm_90: none was found; install the CUDA toolkit"):
        find_compiler("sm_90")


@pytest.mark.parametrize("arch", ["gfx999", "gfx908:xnack-", "sm_70", "sm_", "", "gfx908,gfx90a"])
def test_unknown_architectures_are_refused(arch: str, place: Place) -> None:
    with pytest.raises(CompilerError, match="no kernels for architecture"):
        find_compiler(arch)


# builds


def test_build_writes_objects_that_load_reads(place: Place) -> None:
    place.install("clang-15", COPIES)
    steps: list[tuple[int, int]] = []
    (folder,) = build.build(["gfx908"], advance=lambda done, total: steps.append((done, total)))
    assert folder == place.objects / "gfx908"
    assert sorted(path.name for path in folder.iterdir()) == ["epilogue.hsaco", "linear.hsaco", "manifest.json"]
    assert steps == [(0, 2), (1, 2), (2, 2)]
    loaded = objects.load("gfx908")
    assert loaded.arch == "gfx908"
    assert loaded.code("linear") == b"code of linear"
    assert [k.name for k in loaded.kernels("linear", torch.float16, True)] == ["linear_float16_128x64x32w4"]
    assert [k.tile for k in loaded.kernels("linear", torch.float16, False)] == ["64x64x32w4"]
    assert loaded.kernels("linear", torch.float32, True) == ()
    with pytest.raises(MissingObjectsError, match="no conv2d, but epilogue, linear"):
        loaded.code("conv2d")


def test_only_what_changed_is_compiled_again(place: Place) -> None:
    place.install("clang-15", COPIES)
    probes = 1
    build.build(["gfx908", "gfx90a"])
    assert place.calls("clang-15") == 4 + 2 * probes
    build.build(["gfx908", "gfx90a"])
    assert place.calls("clang-15") == 4 + 2 * probes
    build.build(["gfx908"], force=True)
    assert place.calls("clang-15") == 6 + 2 * probes
    (place.sources / "shared.h").write_text("another header")
    build.build(["gfx908"])
    assert place.calls("clang-15") == 8 + 2 * probes
    find_compiler.cache_clear()
    (place.bin / "clang-15").unlink()
    place.install("clang-16", COPIES)
    build.build(["gfx908"])
    assert place.calls("clang-16") == 2 + probes


def test_a_damaged_object_is_compiled_again(place: Place) -> None:
    place.install("clang-15", COPIES)
    (folder,) = build.build(["gfx908"])
    whole = _content(folder)
    (folder / "linear.hsaco").write_bytes(b"code")
    build.build(["gfx908"])
    assert _content(folder) == whole


@pytest.mark.parametrize("error", [CompilerError("broken"), KeyboardInterrupt()])
def test_a_build_that_ends_early_changes_nothing(
    error: BaseException, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.install("clang-15", COPIES)
    build.build(["gfx908"])
    before = _content(place.objects)
    compile_really = compilers.Compiler.compile

    def fail_on_linear(self: compilers.Compiler, source: Path, target: Path) -> str:
        if source.name == "linear.hip":
            raise error
        return compile_really(self, source, target)

    (place.sources / "shared.h").write_text("another header")
    monkeypatch.setattr(compilers.Compiler, "compile", fail_on_linear)
    with pytest.raises(type(error)):
        build.build(["gfx908"])
    assert _content(place.objects) == before
    assert [path.name for path in place.objects.iterdir()] == ["gfx908"]


def test_what_a_compiler_refuses_is_told_in_its_words(place: Place) -> None:
    accepts_probes = (
        f'case "$*" in *linear.hip*) echo "linear.hip:3: error: no such thing" >&2; exit 1;; esac\n{COPIES}'
    )
    place.install("clang-15", accepts_probes)
    with pytest.raises(CompilerError, match=r"does not compile linear\.hip: linear\.hip:3: error: no such thing"):
        build.build(["gfx908"])
    assert not (place.objects / "gfx908").exists()


def test_objects_go_to_the_cache_where_the_package_cannot_be_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.install("clang-15", COPIES)
    monkeypatch.setattr(objects, "PACKAGED", place.objects / "absent" / "objects")
    (folder,) = build.build(["gfx908"])
    assert folder == cache_folder() / "hip" / "gfx908"
    assert objects.load("gfx908").folder == folder


# what is loaded


def test_absent_objects_say_what_to_run(place: Place) -> None:
    with pytest.raises(MissingObjectsError, match=r"no compiled kernels.*run: updp-rt kernels build --arch gfx90a"):
        objects.load("gfx90a")


def test_objects_of_other_sources_are_not_loaded(place: Place) -> None:
    place.install("clang-15", COPIES)
    build.build(["gfx908"])
    (place.sources / "linear.hip").write_text("other code")
    with pytest.raises(MissingObjectsError, match="other sources than today's"):
        objects.load("gfx908")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ('{"recipe": {}}', "damaged"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "of version 9"),
        (lambda text: text.replace('"linear.hsaco"', '"../linear.hsaco"'), None),
        (lambda text: text.replace('"epilogue.hsaco"', '"absent.hsaco"'), "absent.hsaco is damaged"),
    ],
)
def test_damaged_manifests_are_told(text: object, message: str | None, place: Place) -> None:
    place.install("clang-15", COPIES)
    (folder,) = build.build(["gfx908"])
    path = folder / manifest.FILE
    path.write_text(text(path.read_text()) if callable(text) else str(text))
    if message is None:  # a name never leads out of its folder
        assert objects.load("gfx908").code("linear") == b"code of linear"
        return
    with pytest.raises(MissingObjectsError, match=message):
        objects.load("gfx908")


def test_a_truncated_object_is_not_loaded(place: Place) -> None:
    place.install("clang-15", COPIES)
    (folder,) = build.build(["gfx908"])
    (folder / "linear.hsaco").write_bytes(b"code of")
    with pytest.raises(MissingObjectsError, match=r"linear\.hsaco is damaged"):
        objects.load("gfx908")


# names and figures


def test_names_say_what_a_kernel_is() -> None:
    kernel = HipKernel.parse("depthwise_pointwise_bfloat16_64x128x32w8_any", FIGURES)
    assert (kernel.operator, kernel.dtype, kernel.tile) == ("depthwise_pointwise", "bfloat16", "64x128x32w8")
    assert (kernel.block, kernel.waves, kernel.aligned) == ((64, 128, 32), 8, False)
    assert HipKernel.parse("conv2d_float32_64x64x16w4", FIGURES).aligned
    assert HipKernel.parse("epilogue_float32_16x256w4", FIGURES).block == (16, 256)


@pytest.mark.parametrize("name", ["linear", "linear_float64_1x1x1w1", "linear_float16_64x64", "float16_64x64x32w4"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not named operator_dtype_MxNxKwWAVES"):
        HipKernel.parse(name, FIGURES)


@pytest.mark.parametrize(
    ("arch", "vgprs", "agprs", "sgprs", "lds", "waves", "wanted"),
    [
        ("gfx908", 128, 128, 50, 0, 4, 2),  # the files are apart
        ("gfx908", 129, 0, 50, 0, 4, 1),
        ("gfx908", 20, 0, 102, 0, 4, 7),  # 112 scalar registers a wave
        ("gfx908", 64, 64, 50, 32 * 1024, 4, 2),  # two workgroups of LDS
        ("gfx908", 64, 64, 50, 33 * 1024, 8, 2),
        ("gfx908", 84, 0, 50, 0, 8, 2),  # three waves a SIMD make no second workgroup of eight
        ("gfx90a", 256, 128, 50, 0, 4, 2),  # one file
        ("gfx942", 64, 0, 50, 0, 4, 8),
    ],
)
def test_occupancy(arch: str, vgprs: int, agprs: int, sgprs: int, lds: int, waves: int, wanted: float) -> None:
    assert occupancy(arch, vgprs=vgprs, agprs=agprs, sgprs=sgprs, lds=lds, waves=waves) == wanted


def test_instructions_are_counted_by_kind() -> None:
    text = [
        "v_mfma_f32_32x32x8f16",
        "ds_read_b128",
        "ds_write_b64",
        "global_load_dwordx4",
        "buffer_store_short",
        "v_add",
    ]
    assert count_instructions(text) == {"matrix": 1, "lds_access": 2, "global_memory": 2}


def test_ptxas_report() -> None:
    report = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 24576 bytes smem, 432 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""
    assert nvidia_figures(report) == {
        "a": Figures(vgprs=128, agprs=0, sgprs=0, spills=12, scratch=16, lds=24576),
        "b": Figures(vgprs=10, agprs=0, sgprs=0, spills=0, scratch=0, lds=0),
    }


def test_figures_of_compiled_code(tmp_path: Path) -> None:
    compiler = find_compiler("gfx908")
    source = tmp_path / "two.hip"
    source.write_text(
        """
        using Four = float __attribute__((ext_vector_type(4)));
        #define KERNEL extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(128, 128))) void
        KERNEL multiply(float* x) {
          __attribute__((shared)) static float lds[1024];
          unsigned lane = __builtin_amdgcn_workitem_id_x();
          lds[lane] = x[lane];
          __builtin_amdgcn_s_barrier();
          Four sums = __builtin_amdgcn_mfma_f32_16x16x4f32(lds[lane + 64], lds[lane], Four{}, 0, 0, 0);
          x[lane] = sums[0] + sums[1] + sums[2] + sums[3];
        }
        KERNEL nothing() {}
        """
    )
    compiler.compile(source, tmp_path / "two.hsaco")
    found = amd_figures((tmp_path / "two.hsaco").read_bytes())
    assert set(found) == {"multiply", "nothing"}
    multiply, nothing = found["multiply"], found["nothing"]
    assert (multiply.matrix, multiply.global_memory, multiply.lds, multiply.agprs) == (1, 2, 4096, 4)
    assert multiply.lds_access in (2, 3)  # a write, and two reads or one of both
    assert multiply.occupancy == 8  # 16 workgroups of LDS, two waves each
    assert (nothing.matrix, nothing.lds_access, nothing.global_memory, nothing.lds) == (0, 0, 0, 0)
    assert (multiply.spills, multiply.scratch, nothing.spills, nothing.scratch) == (0, 0, 0, 0)


def test_manifest_survives_the_disk(place: Place) -> None:
    place.install("clang-15", COPIES)
    (folder,) = build.build(["gfx908"])
    read = read_manifest(folder)
    assert read.kernels[0].figures == FIGURES
    assert read.recipe.compiler == "clang-15: clang-15 version 1"
    assert read.recipe.arch == "gfx908"
