"""Kernels compiled by Triton, executed, against float64: in order, and with workgroups and waves out of order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from tests.emulator import triton_kernels as kernels
from updp_rt.emulator import Counters, run_triton

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
# Of the largest value: what rounding the result costs, and some sums.
TOLERANCE = {HALF: 1.5e-3, BRAIN: 1.2e-2, SINGLE: 5e-6}
_TYPES = {HALF: "fp16", BRAIN: "bf16", SINGLE: "fp32", torch.int8: "i8", torch.int32: "i32"}
_LIMIT = 20_000_000  # instructions a wave


def compiled(
    kernel: triton.JITFunction,
    values: dict[str, Any],
    constants: dict[str, Any],
    aligned: bool,
    options: dict[str, int],
) -> CompiledKernel:
    """Compile for arguments such as `values`; `aligned`: numbers and addresses are known to be multiples of 16."""

    def kind(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"*{_TYPES[value.dtype]}"
        return "fp32" if isinstance(value, float) else "i32"

    def known(value: Any) -> bool:
        return aligned and (value.data_ptr() if isinstance(value, Tensor) else value) % 16 == 0

    signature = {name: kind(values[name]) if name in values else "constexpr" for name in kernel.arg_names}
    place = kernel.arg_names.index
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(place(name),): value for name, value in constants.items()},
        attrs={(place(name),): [["tt.divisibility", 16]] for name, value in values.items() if known(value)},
    )
    return triton.compile(source, target=GPUTarget("hip", "gfx908", 64), options=options)


def execute(
    kernel: triton.JITFunction,
    grid: Sequence[int],
    values: dict[str, Any],
    constants: dict[str, Any],
    *,
    aligned: bool = True,
    **options: int,
) -> Counters:
    """Compile and run a kernel in order; then out of order, which must not change a bit of any tensor."""
    code = compiled(kernel, values, constants, aligned, options)
    before = [(value, value.clone()) for value in values.values() if isinstance(value, Tensor)]
    counters = run_triton(code, grid, *values.values(), max_instructions=_LIMIT)
    after = [tensor.clone() for tensor, _ in before]
    for tensor, fresh in before:
        tensor.copy_(fresh)
    run_triton(code, grid, *values.values(), max_instructions=_LIMIT, workgroups="shuffled", waves="backward", seed=7)
    for (tensor, _), first in zip(before, after, strict=True):
        assert torch.equal(tensor.view(torch.uint8), first.view(torch.uint8)), "the order of execution shows"
    return counters


def random(*size: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(size) * scale).to(dtype)


def poisoned(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.full(size, torch.nan, dtype=dtype)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.shape == wanted.shape
    error = float((found.double() - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance  # false for NaN, too


def blocks(size: int, block: int) -> int:
    return -(-size // block)


@pytest.mark.parametrize(
    ("dtype", "tile", "sizes", "act", "residual", "options"),
    [
        (HALF, (64, 64, 32), (197, 192, 192), "gelu", True, {"num_warps": 4, "matrix_instr_nonkdim": 16, "kpack": 2}),
        (HALF, (128, 32, 16), (65, 48, 208), "relu", False, {"num_warps": 8, "matrix_instr_nonkdim": 32, "kpack": 2}),
        (HALF, (32, 128, 64), (33, 129, 17), "none", True, {"num_warps": 4, "num_stages": 1}),
        (BRAIN, (64, 64, 32), (197, 67, 131), "gelu", True, {"num_warps": 4, "matrix_instr_nonkdim": 16}),
        (BRAIN, (128, 64, 64), (131, 64, 192), "relu", True, {"num_warps": 8, "matrix_instr_nonkdim": 32, "kpack": 2}),
        (SINGLE, (64, 64, 16), (65, 48, 80), "gelu", True, {"num_warps": 4, "matrix_instr_nonkdim": 16, "kpack": 2}),
        (SINGLE, (32, 64, 32), (1, 1, 1), "none", True, {"num_warps": 4, "matrix_instr_nonkdim": 32}),
        (SINGLE, (128, 32, 16), (131, 37, 45), "relu", False, {"num_warps": 8, "num_stages": 1}),
    ],
)
def test_linear(
    dtype: torch.dtype,
    tile: tuple[int, int, int],
    sizes: tuple[int, int, int],
    act: str,
    residual: bool,
    options: dict[str, int],
) -> None:
    m, n, k = sizes
    gap = 0 if k % 16 == 0 else 3
    x, weight = random(m, k + gap, dtype=dtype)[:, :k], random(n, k, dtype=dtype, scale=k**-0.5)
    bias, other = random(n, dtype=dtype), random(m, n, dtype=dtype)
    y = poisoned(m, n + gap, dtype=dtype)
    values: dict[str, Any] = {"x": x, "weight": weight, "bias": bias, "residual": other, "y": y[:, :n]}
    constants: dict[str, Any] = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), tile, strict=True))
    constants |= {"GROUP_M": 4, "ACT": act}
    if not residual:
        del values["residual"]
        constants["residual"] = None
    values |= {"m": m, "n": n, "k": k, "stride_x": k + gap, "stride_y": n + gap}
    grid = [blocks(m, tile[0]) * blocks(n, tile[1])]
    counters = execute(kernels.linear, grid, values, constants, aligned=gap == 0, **options)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    wanted = {"gelu": F.gelu, "relu": F.relu, "none": lambda z: z}[act](wanted)
    assert_close(y[:, :n], wanted + other.double() if residual else wanted, TOLERANCE[dtype])
    assert y[:, n:].isnan().all(), "written between the rows"
    whole = grid[0] * tile[0] * tile[1] * blocks(k, tile[2]) * tile[2]
    assert counters.matrix_flops >= 2 * whole  # more where waves share a tile too small for all


@pytest.mark.parametrize(
    ("dtype", "kernel_size", "stride", "size", "out_channels", "tile", "options"),
    [
        (HALF, 3, 1, (2, 9, 7, 32), 48, (64, 64, 32), {"num_warps": 4, "matrix_instr_nonkdim": 16}),
        (HALF, 7, 2, (1, 17, 11, 3), 13, (32, 32, 16), {"num_warps": 4, "num_stages": 1}),
        (BRAIN, 5, 2, (2, 9, 7, 16), 48, (128, 32, 16), {"num_warps": 8, "matrix_instr_nonkdim": 32}),
        (BRAIN, 1, 1, (1, 7, 11, 37), 70, (64, 32, 64), {"num_warps": 4, "matrix_instr_nonkdim": 32}),
        (SINGLE, 3, 2, (1, 7, 11, 37), 30, (32, 64, 32), {"num_warps": 4, "matrix_instr_nonkdim": 16}),
    ],
)
def test_conv2d(
    dtype: torch.dtype,
    kernel_size: int,
    stride: int,
    size: tuple[int, int, int, int],
    out_channels: int,
    tile: tuple[int, int, int],
    options: dict[str, int],
) -> None:
    channels = size[-1]
    x = random(*size, dtype=dtype)
    weight = random(
        kernel_size, kernel_size, channels, out_channels, dtype=dtype, scale=1 / (kernel_size * channels**0.5)
    )
    bias = random(out_channels, dtype=dtype)
    planes, filters = x.double().permute(0, 3, 1, 2), weight.double().permute(3, 2, 0, 1)
    wanted = F.conv2d(planes, filters, bias.double(), stride, kernel_size // 2).relu().permute(0, 2, 3, 1)
    y = poisoned(*wanted.shape, dtype=dtype)
    pixels = y[..., 0].numel()
    values = {"x": x, "weight": weight, "bias": bias, "y": y, "pixels": pixels}
    values |= {"height": size[1], "width": size[2], "channels": channels}
    values |= {"out_height": y.shape[1], "out_width": y.shape[2], "out_channels": out_channels}
    constants = {"KERNEL": kernel_size, "STRIDE": stride, "PAD": kernel_size // 2}
    constants |= dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), tile, strict=True))
    grid = [blocks(pixels, tile[0]), blocks(out_channels, tile[1])]
    execute(kernels.conv2d, grid, values, constants, **options)
    assert_close(y, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "kernel_size", "stride", "channels", "tile", "warps"),
    [(HALF, 3, 1, 32, (32, 32), 4), (BRAIN, 5, 2, 19, (16, 64), 2), (SINGLE, 7, 1, 48, (64, 16), 8)],
)
def test_depthwise(
    dtype: torch.dtype, kernel_size: int, stride: int, channels: int, tile: tuple[int, int], warps: int
) -> None:
    x = random(2, 9, 8, channels, dtype=dtype)
    weight = random(kernel_size, kernel_size, channels, dtype=dtype, scale=1 / kernel_size)
    bias = random(channels, dtype=dtype)
    planes, filters = x.double().permute(0, 3, 1, 2), weight.double().permute(2, 0, 1).unsqueeze(1)
    wanted = F.silu(F.conv2d(planes, filters, bias.double(), stride, kernel_size // 2, groups=channels))
    wanted = wanted.permute(0, 2, 3, 1)
    y = poisoned(*wanted.shape, dtype=dtype)
    pixels = y[..., 0].numel()
    values = {"x": x, "weight": weight, "bias": bias, "y": y, "pixels": pixels}
    values |= {"height": 9, "width": 8, "channels": channels, "out_height": y.shape[1], "out_width": y.shape[2]}
    constants = {"KERNEL": kernel_size, "STRIDE": stride, "BLOCK_P": tile[0], "BLOCK_C": tile[1]}
    grid = [blocks(pixels, tile[0]), blocks(channels, tile[1])]
    execute(kernels.depthwise, grid, values, constants, num_warps=warps)
    assert_close(y, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "columns", "block", "warps"),
    [(HALF, 512, 512, 1), (BRAIN, 1023, 1024, 4), (SINGLE, 67, 128, 2), (SINGLE, 2048, 2048, 8)],
)
def test_softmax(dtype: torch.dtype, columns: int, block: int, warps: int) -> None:
    x, y = random(9, columns, dtype=dtype, scale=3.0), poisoned(9, columns, dtype=dtype)
    execute(kernels.softmax, [9], {"x": x, "y": y, "columns": columns}, {"BLOCK": block}, num_warps=warps)
    assert_close(y, x.double().softmax(1), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "columns", "rows_a_program", "warps"), [(HALF, 192, 4, 4), (BRAIN, 131, 16, 8), (SINGLE, 511, 1, 1)]
)
def test_layernorm(dtype: torch.dtype, columns: int, rows_a_program: int, warps: int) -> None:
    x, y = random(19, columns, dtype=dtype) * 2 + 1, poisoned(19, columns, dtype=dtype)
    weight, bias = random(columns, dtype=dtype), random(columns, dtype=dtype)
    values = {"x": x, "weight": weight, "bias": bias, "y": y, "rows": 19, "columns": columns, "eps": 1e-5}
    constants = {"ROWS": rows_a_program, "BLOCK": triton.next_power_of_2(columns)}
    execute(kernels.layernorm, [blocks(19, rows_a_program)], values, constants, num_warps=warps)
    assert_close(y, F.layer_norm(x.double(), [columns], weight.double(), bias.double(), 1e-5), TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "dim", "tile", "length", "options"),
    [
        (HALF, 64, (64, 32), 197, {"num_warps": 4, "matrix_instr_nonkdim": 16}),
        (BRAIN, 32, (32, 64), 77, {"num_warps": 2, "matrix_instr_nonkdim": 32, "num_stages": 1}),
        # Four-register results whose addend partly overlaps them: read before it is overwritten.
        (SINGLE, 64, (32, 32), 77, {"num_warps": 2, "matrix_instr_nonkdim": 16}),
    ],
)
def test_attention(dtype: torch.dtype, dim: int, tile: tuple[int, int], length: int, options: dict[str, int]) -> None:
    q, k, v = (random(length, dim, dtype=dtype) for _ in range(3))
    y = poisoned(length, dim, dtype=dtype)
    values = {"q": q, "k": k, "v": v, "y": y, "length": length, "scale": dim**-0.5}
    constants = {"DIM": dim, "BLOCK_M": tile[0], "BLOCK_N": tile[1]}
    execute(kernels.attention, [blocks(length, tile[0])], values, constants, **options)
    share = (q.double() @ k.double().T * dim**-0.5).softmax(1)
    assert_close(y, share @ v.double(), 2 * TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("dtype", "sizes", "columns", "options"),
    [
        (HALF, (16, 64, 32), (True, False), {"num_warps": 1, "matrix_instr_nonkdim": 16, "kpack": 2}),
        (HALF, (64, 4, 64), (False, False), {"num_warps": 1, "matrix_instr_nonkdim": 4}),
        (BRAIN, (32, 32, 16), (False, True), {"num_warps": 2, "matrix_instr_nonkdim": 32, "kpack": 2}),
        (BRAIN, (4, 64, 64), (True, True), {"num_warps": 1, "matrix_instr_nonkdim": 4}),
        (SINGLE, (64, 32, 16), (True, True), {"num_warps": 4, "matrix_instr_nonkdim": 32}),
        (SINGLE, (32, 16, 64), (False, False), {"num_warps": 1, "matrix_instr_nonkdim": 16, "kpack": 2}),
        (torch.int8, (32, 32, 64), (False, True), {"num_warps": 1, "matrix_instr_nonkdim": 32}),
        (torch.int8, (64, 16, 32), (True, False), {"num_warps": 2, "matrix_instr_nonkdim": 16, "kpack": 2}),
        (torch.int8, (16, 64, 64), (False, False), {"num_warps": 1, "matrix_instr_nonkdim": 4}),
    ],
)
def test_dot(
    dtype: torch.dtype, sizes: tuple[int, int, int], columns: tuple[bool, bool], options: dict[str, int]
) -> None:
    m, n, k = sizes
    exact = dtype == torch.int8
    x, weight = (
        torch.randint(-128, 128, size, dtype=dtype) if exact else random(*size, dtype=dtype)
        for size in ((m, k), (k, n))
    )
    y = torch.full((m, n), -7, dtype=torch.int32) if exact else poisoned(m, n, dtype=SINGLE)
    stored = [a.T.contiguous() if by_column else a for a, by_column in zip((x, weight), columns, strict=True)]
    constants = {"M": m, "N": n, "K": k, "X_COLUMNS": columns[0], "W_COLUMNS": columns[1]}
    constants["SUM"] = tl.int32 if exact else tl.float32
    execute(kernels.dot, [1], {"x": stored[0], "weight": stored[1], "y": y}, constants, **options)
    assert_close(y, x.double() @ weight.double(), 0.0 if exact else 2e-6)


FORMULAS = {
    "exp + log": lambda x, y: x.exp() + (y.abs() + 1).log(),
    "sin * cos": lambda x, y: x.sin() * y.cos(),
    "sqrt / abs": lambda x, y: x.abs().sqrt() / (1 + y.abs()),
    "tanh + erf": lambda x, y: x.tanh() + y.erf(),
    "pow + rsqrt": lambda x, y: x.abs() ** y + (y.abs() + 1).rsqrt(),
    "hardswish": lambda x, y: (x + 3).clamp(0, 6) * x / 6,
    "clamp + where": lambda x, y: x.clamp(-1, 1) + torch.maximum(x, y),
    "fma - div": lambda x, y: x * y + x - x / (y * y + 1),
    "cumsum": lambda x, y: x.cumsum(0),
    "sort": lambda x, y: x.sort().values,
    "argmax": lambda x, y: x.argmax().double().expand(len(x)),
    "gather": lambda x, y: x[torch.arange(len(x)) ^ 5],
}


@pytest.mark.parametrize(
    ("formula", "dtypes", "warps"),
    [
        ("exp + log", (SINGLE, HALF, SINGLE), 4),
        ("sin * cos", (SINGLE, SINGLE, SINGLE), 4),
        ("sqrt / abs", (HALF, SINGLE, HALF), 1),
        ("tanh + erf", (BRAIN, HALF, SINGLE), 4),
        ("pow + rsqrt", (SINGLE, SINGLE, SINGLE), 1),
        ("hardswish", (BRAIN, BRAIN, BRAIN), 4),
        ("clamp + where", (HALF, HALF, HALF), 4),
        ("fma - div", (SINGLE, SINGLE, SINGLE), 4),
        ("cumsum", (SINGLE, HALF, SINGLE), 4),
        ("sort", (SINGLE, HALF, SINGLE), 4),
        ("argmax", (HALF, HALF, SINGLE), 4),
        ("gather", (BRAIN, HALF, BRAIN), 4),
    ],
)
def test_elementwise(formula: str, dtypes: tuple[torch.dtype, torch.dtype, torch.dtype], warps: int) -> None:
    block = 256
    # One block where the whole of it takes part in every value.
    size = block if formula in ("cumsum", "sort", "argmax", "gather") else 1000
    a, b = random(size, dtype=dtypes[0]), random(size, dtype=dtypes[1])
    y = poisoned(size, dtype=dtypes[2])
    values = {"a": a, "b": b, "y": y, "size": size}
    constants = {"FORMULA": formula, "BLOCK": block}
    execute(kernels.elementwise, [blocks(size, block)], values, constants, num_warps=warps)
    assert_close(y, FORMULAS[formula](a.double(), b.double()), TOLERANCE[dtypes[2]])


def test_elementwise_integers_and_rounding() -> None:
    a, b, y = random(1000, dtype=SINGLE), random(1000, dtype=SINGLE), poisoned(1000, dtype=SINGLE)
    constants = {"FORMULA": "floor + ceil", "BLOCK": 256}
    execute(kernels.elementwise, [4], {"a": a, "b": b, "y": y, "size": 1000}, constants, num_warps=4)
    i = torch.arange(1000)
    assert torch.equal(y, (a * 10).floor() + (b * 10).ceil() + (i % 7 - i // 13))


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_atomics(dtype: torch.dtype) -> None:
    x = torch.randint(-4, 5, (1000,)).to(dtype)  # whose sums are exact in any order
    sums, last = torch.zeros(32, dtype=dtype), torch.zeros(32, dtype=torch.int32)
    values = {"x": x, "sums": sums, "last": last, "size": 1000}
    execute(kernels.histogram, [4], values, {"BINS": 32, "BLOCK": 256}, num_warps=4)
    bins = torch.arange(1000) % 32
    assert torch.equal(sums.double(), torch.zeros(32).double().index_add(0, bins, x.double()))
    assert torch.equal(last.long(), torch.stack([torch.arange(1000)[bins == i].max() for i in range(32)]))


@pytest.mark.parametrize("kpack", [1, 2])
def test_shows_what_triton_compiles_wrongly(kpack: int) -> None:
    """Triton before 3.8 multiplies a tile twice, and halves it with all that was summed before."""
    m, k = 16, 64
    x, weight, bias = torch.ones(m, k, dtype=HALF), torch.ones(m, k, dtype=HALF), torch.zeros(m, dtype=HALF)
    y = poisoned(m, m, dtype=HALF)
    values = {"x": x, "weight": weight, "bias": bias, "y": y, "m": m, "n": m, "k": k, "stride_x": k, "stride_y": m}
    constants = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16, "GROUP_M": 1, "ACT": "none", "residual": None}
    options = {"num_warps": 1, "num_stages": 1, "matrix_instr_nonkdim": 16, "kpack": kpack}
    execute(kernels.linear, [1], values, constants, **options)
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    affected = kpack == 2 and version < (3, 8)
    assert y.unique().tolist() == [30.0 if affected else 64.0]


def test_arguments_are_counted_and_floats_may_be_written_as_integers() -> None:
    x, weight, bias = torch.randn(3, 64), torch.ones(64), torch.zeros(64)
    y = poisoned(3, 64, dtype=SINGLE)
    values = {"x": x, "weight": weight, "bias": bias, "y": y, "rows": 3, "columns": 64, "eps": 1.0}
    code = compiled(kernels.layernorm, values, {"ROWS": 1, "BLOCK": 64}, True, {"num_warps": 1})
    with pytest.raises(
        ValueError, match=r"layernorm\(x, weight, bias, y, rows, columns, eps\) takes 7 arguments, not 6"
    ):
        run_triton(code, 3, x, weight, bias, y, 3, 64)
    run_triton(code, 3, x, weight, bias, y, 3, 64, 1)
    assert_close(y, F.layer_norm(x.double(), [64], eps=1.0), TOLERANCE[SINGLE])


def test_other_gpus_are_refused() -> None:
    signature = {"x": "*fp32", "y": "*fp32", "columns": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=kernels.softmax, signature=signature, constexprs={(3,): 64})
    code = triton.compile(source, target=GPUTarget("hip", "gfx90a", 64))
    with pytest.raises(ValueError, match="softmax was compiled for gfx90a; the emulator runs gfx908"):
        run_triton(code, 1, torch.zeros(64), torch.zeros(64), 64)
