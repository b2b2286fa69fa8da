"""Kernels compiled ahead of time, without a device: for checked-in budgets, emulation and shipping code objects."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from .add_layer_norm import add_layer_norm_kernel
from .attention import attention_kernel
from .average_pool import average_pool_kernel
from .conv2d import conv2d_kernel
from .depthwise_conv2d import depthwise_conv2d_kernel
from .depthwise_pointwise import depthwise_pointwise_kernel
from .dual_linear import dual_linear_kernel
from .epilogue import epilogue_kernel
from .inverted_residual import inverted_residual_kernel
from .layer_norm import layer_norm_kernel
from .linear import linear_kernel
from .max_pool import max_pool_kernel
from .mlp import mlp_kernel
from .norm_linear import norm_linear_kernel
from .patches import PATCH_W
from .prepend_tokens import prepend_tokens_kernel
from .tiles import Tile

KERNELS = {
    "linear": linear_kernel,
    "conv2d": conv2d_kernel,
    "depthwise_conv2d": depthwise_conv2d_kernel,
    "depthwise_pointwise": depthwise_pointwise_kernel,
    "dual_linear": dual_linear_kernel,
    "mlp": mlp_kernel,
    "inverted_residual": inverted_residual_kernel,
    "max_pool": max_pool_kernel,
    "average_pool": average_pool_kernel,
    "epilogue": epilogue_kernel,
    "layer_norm": layer_norm_kernel,
    "add_layer_norm": add_layer_norm_kernel,
    "norm_linear": norm_linear_kernel,
    "prepend_tokens": prepend_tokens_kernel,
    "attention": attention_kernel,
}
_WEIGHTS = {"weight", "w_x", "w_a", "w_dw", "w_pw", "w_pwl", "w1", "w2"}
_FLOATS = {"sums": "*fp32", "eps": "fp32"}  # whatever the dtype of the others
_BIASES = {"bias", "b_dw", "b_pw", "b_pwl", "b1", "b2"}
_POINTERS = {"qkv", "x", "a", "y", "residual", "table"} | _WEIGHTS | _BIASES
_SIZES = {"k", "k_x", "k_a", "n", "channels", "hidden", "expanded", "out_channels"}
_MULTIPLES = _SIZES | {"stride_x", "stride_a", "stride_residual", "stride_y"}
_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_AMD_OPTIONS = ("waves_per_eu", "matrix_instr_nonkdim", "kpack")


def target(arch: str) -> GPUTarget:
    """Triton's target for ``gfx908``, ``sm_90`` and the like."""
    return GPUTarget("cuda", int(arch[3:]), 32) if arch.startswith("sm_") else GPUTarget("hip", arch, 64)


def compile_kernel(
    operator: str,
    dtype: torch.dtype,
    tile: Tile,
    arch: str,
    *,
    act: str = "gelu",
    bias: bool = True,
    residual: bool = True,
    aligned: bool = True,
    kernel_size: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
) -> CompiledKernel:
    """Compile one operator as a launch on a device would.

    Args:
        operator, dtype, tile, arch: what to compile; all tensors, biases too, have `dtype`.
        act, bias, residual: the epilogue; without bias or residual their arguments vanish from the kernel's own.
        aligned: whether depths, channels and row distances are multiples of 16 (and of the tile's depth).
        kernel_size, stride, padding: of the convolutions.

    Returns:
        Triton's compiled kernel: ``asm`` by stage, ``metadata.shared`` bytes of LDS or shared memory to launch with.

    Raises:
        RuntimeError: Triton runs as an interpreter in this process.
    """
    kernel = KERNELS[operator]
    constants: dict[str, object] = {
        "ACT": act,
        "UNIT": 8 if aligned else 1,
        "PATCH_W": PATCH_W,
        "NORM": True,
        "WHOLE": True,
        "WIDTH": triton.next_power_of_2(tile.block_k),
        **dict.fromkeys(("EVEN_K", "EVEN_K_X", "EVEN_K_A"), aligned),
        **dict(zip(("KERNEL_H", "KERNEL_W"), kernel_size, strict=True)),
        **dict(zip(("STRIDE_H", "STRIDE_W"), stride, strict=True)),
        **dict(zip(("PAD_H", "PAD_W"), padding, strict=True)),
        **({} if bias else dict.fromkeys(_BIASES)),
        **({} if residual else {"residual": None}),
    }
    names = [name for name in kernel.arg_names if name not in constants]
    types = {name: pointer_type(dtype) if name in _POINTERS else _FLOATS.get(name, "i32") for name in names}
    pointers = _POINTERS | {"sums"}
    multiples = pointers | _MULTIPLES if aligned else pointers
    return build(kernel, tile, arch, types=types, constants=constants, multiples=multiples, near=pointers)


def compile_launch(
    kernel: triton.JITFunction, tile: Tile, arch: str, values: dict[str, Any]
) -> tuple[CompiledKernel, list[Any]]:
    """Compile `kernel` for the arguments of one launch, as that launch would.

    Args:
        values: all arguments by name; tensors may lie in the host's memory.

    Returns:
        Triton's compiled kernel, and those of `values` that a launch gives it: None, 1 and constants are compiled in.
    """
    options = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M", *_AMD_OPTIONS)
    constants = {
        name: value
        for name, value in values.items()
        if name.isupper() or name in options or value is None or isinstance(value, str | bool) or _is_one(value)
    }
    given = {name: values[name] for name in kernel.arg_names if name not in constants}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    addresses = {name: tensors[name].data_ptr() if name in tensors else value for name, value in given.items()}
    compiled = build(
        kernel,
        tile,
        arch,
        types={name: type_of(value) for name, value in given.items()},
        constants=constants,
        multiples={n for n, address in addresses.items() if isinstance(address, int) and address % 16 == 0},
        near={name for name, tensor in tensors.items() if tensor.untyped_storage().nbytes() < 2**31},
    )
    return compiled, list(given.values())


def _is_one(value: Any) -> bool:
    return isinstance(value, int) and value == 1


def type_of(value: Tensor | float) -> str:
    """Triton's type of an argument."""
    if isinstance(value, Tensor):
        return pointer_type(value.dtype)
    return "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"


def pointer_type(dtype: torch.dtype) -> str:
    """Triton's type of a pointer to `dtype`."""
    return "*" + _TYPES[dtype]


def build(
    kernel: triton.JITFunction,
    tile: Tile,
    arch: str,
    *,
    types: dict[str, str],
    constants: dict[str, object],
    multiples: Set[str],
    near: Set[str],
) -> CompiledKernel:
    """Compile `kernel` for arguments of which this is known.

    Args:
        types: Triton's types of the arguments of a launch.
        constants: values of those compiled in, the tile's apart.
        multiples: arguments that are multiples of 16, addresses in bytes.
        near: pointers to tensors within 2 GB.

    Raises:
        RuntimeError: Triton runs as an interpreter in this process.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("nothing compiles under TRITON_INTERPRET=1")
    constants = {**tile.arguments, **constants}
    signature, constexprs, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else types[name]
        if name in constants:
            constexprs[position,] = constants[name]
            continue
        known = [["tt.divisibility", 16]] if name in multiples else []
        if name in near and arch.startswith("gfx"):
            known.append(["tt.pointer_range", 32])
        attributes[position,] = known
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    if arch.startswith("gfx"):
        options |= {name: tile.arguments[name] for name in _AMD_OPTIONS}
    return triton.compile(source, target=target(arch), options=options)
