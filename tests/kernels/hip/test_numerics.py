"""Every HIP kernel built for gfx908, launched as on an MI100 and executed, against float64; outputs start as NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.kernels import problems
from tests.kernels.hip.running import DTYPES, run
from tests.kernels.problems import Problem, spoiled
from tests.marks import slow
from updp_rt.kernels import hip
from updp_rt.kernels.hip import HipKernel
from updp_rt.ops import ACTIVATIONS

ALL = hip.load("gfx908").manifest.kernels
# They have files of their own.
APART = ("layer_norm", "add_layer_norm", "norm_linear", "prepend_tokens", "attention", "conv2d_max_pool")
ALIGNED = ("attention", "conv2d_max_pool")  # heads are multiples of 32 deep, and a stem's rows of whole vectors
KERNELS = [kernel for kernel in ALL if kernel.operator not in APART]
every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
Make = Callable[..., Problem]

# Several tiles each way with an incomplete last one, and a depth of several steps with an incomplete last one.
LARGE: dict[str, Make] = {
    "linear": lambda dtype, act, **given: problems.linear(197, 200, 136, dtype, act, **given),
    "conv2d": lambda dtype, act, **given: problems.conv2d((3, 40, 9, 8), 136, (3, 3), dtype, act, **given),
    "depthwise_pointwise": lambda dtype, act, **given: problems.depthwise_pointwise(
        (2, 72, 9, 11), 136, 7, dtype, act, **given
    ),
    "depthwise_conv2d": lambda dtype, act, **given: problems.depthwise_conv2d((3, 72, 9, 11), 3, dtype, act, **given),
    "dual_linear": lambda dtype, act, **given: problems.dual_linear(197, 200, 136, 72, dtype, act, **given),
    "mlp": lambda dtype, act, **given: problems.mlp(197, 88, 136, 72, dtype, act, eps=1e-5, **given),
    "inverted_residual": lambda dtype, act, **given: problems.inverted_residual(
        (2, 24, 17, 16), 72, 24, dtype, act, **given
    ),
    "max_pool": lambda dtype, act: problems.max_pool((3, 72, 9, 11), (3, 3), dtype, stride=(2, 2), padding=(1, 1)),
    "average_pool": lambda dtype, act: problems.average_pool((3, 136, 9, 11), dtype),
    "epilogue": lambda dtype, act, **given: problems.epilogue(problems.image(2, 264, 9, 8, dtype), act, **given),
}
# Less than a tile, whichever it is.
SMALL: dict[str, Make] = {
    "linear": lambda dtype, act, **given: problems.linear(5, 8, 24, dtype, act, gap=8, **given),
    "conv2d": lambda dtype, act, **given: problems.conv2d((1, 8, 5, 3), 8, (3, 3), dtype, act, stride=(2, 1), **given),
    "depthwise_pointwise": lambda dtype, act, **given: problems.depthwise_pointwise(
        (1, 8, 5, 3), 8, 3, dtype, act, stride=2, **given
    ),
    "depthwise_conv2d": lambda dtype, act, **given: problems.depthwise_conv2d(
        (1, 8, 5, 3), 3, dtype, act, stride=2, **given
    ),
    "dual_linear": lambda dtype, act, **given: problems.dual_linear(5, 8, 24, 8, dtype, act, gap=8, **given),
    "mlp": lambda dtype, act, **given: problems.mlp(5, 8, 40, 24, dtype, act, gap=8, **given),
    "inverted_residual": lambda dtype, act, **given: problems.inverted_residual(
        (1, 8, 5, 3), 24, 8, dtype, act, **given
    ),
    "max_pool": lambda dtype, act: problems.max_pool((1, 8, 5, 3), (2, 3), dtype, stride=(1, 2)),
    "average_pool": lambda dtype, act: problems.average_pool((1, 8, 1, 3), dtype),
    "epilogue": lambda dtype, act, **given: problems.epilogue(problems.matrix(5, 8, dtype, gap=8), act, **given),
}
# Sizes that vectors do not fit; for the kernels that take any.
ODD: dict[str, list[Make]] = {
    "linear": [
        lambda dtype, act, **given: problems.linear(67, 131, 45, dtype, act, gap=3, **given),
        lambda dtype, act, **given: problems.linear(1, 1, 1, dtype, act, **given),
    ],
    "conv2d": [
        lambda dtype, act, **given: problems.conv2d((1, 3, 25, 23), 37, (7, 7), dtype, act, stride=(2, 2), **given),
        lambda dtype, act, **given: problems.conv2d((2, 19, 6, 7), 5, (3, 2), dtype, act, padding=(0, 1), **given),
        lambda dtype, act, **given: problems.conv2d((37, 5, 1, 1), 3, (3, 3), dtype, act, **given),
        lambda dtype, act, **given: problems.conv2d((1, 1, 1, 1), 1, (1, 1), dtype, act, **given),
        lambda dtype, act, **given: problems.conv2d((2, 2, 5, 9), 17, (3, 5), dtype, act, padding=(4, 6), **given),
        # Stems: ResNet's, ConvNeXt's, DeiT's, and a patch of rows with 12 channels.
        lambda dtype, act, **given: problems.conv2d((2, 3, 19, 31), 64, (7, 7), dtype, act, stride=(2, 2), **given),
        lambda dtype, act, **given: problems.conv2d(
            (2, 3, 13, 23), 96, (4, 4), dtype, act, stride=(4, 4), padding=(0, 0), **given
        ),
        lambda dtype, act, **given: problems.conv2d(
            (3, 3, 32, 53), 192, (16, 16), dtype, act, stride=(16, 16), padding=(0, 0), **given
        ),
        lambda dtype, act, **given: problems.conv2d(
            (2, 12, 9, 5), 40, (4, 1), dtype, act, stride=(4, 1), padding=(0, 0), **given
        ),
    ],
    "depthwise_pointwise": [
        lambda dtype, act, **given: problems.depthwise_pointwise((2, 37, 9, 11), 67, 3, dtype, act, stride=2, **given),
        lambda dtype, act, **given: problems.depthwise_pointwise((1, 3, 1, 1), 1, 7, dtype, act, **given),
    ],
    "depthwise_conv2d": [
        lambda dtype, act, **given: problems.depthwise_conv2d((2, 37, 9, 11), 3, dtype, act, stride=2, **given),
        lambda dtype, act, **given: problems.depthwise_conv2d(
            (2, 5, 8, 13), (7, 4), dtype, act, stride=(1, 3), padding=(2, 5), **given
        ),
        lambda dtype, act, **given: problems.depthwise_conv2d((1, 1, 1, 1), 7, dtype, act, **given),
    ],
    "max_pool": [
        lambda dtype, act: problems.max_pool((2, 37, 9, 11), (3, 3), dtype, stride=(2, 2), padding=(1, 1)),
        lambda dtype, act: problems.max_pool((1, 1, 1, 1), (1, 1), dtype, stride=(1, 1)),
    ],
    "average_pool": [
        lambda dtype, act: problems.average_pool((2, 131, 9, 11), dtype),
        lambda dtype, act: problems.average_pool((1, 1, 1, 1), dtype),
    ],
    "dual_linear": [
        lambda dtype, act, **given: problems.dual_linear(67, 131, 45, 19, dtype, act, gap=3, **given),
        lambda dtype, act, **given: problems.dual_linear(1, 1, 1, 1, dtype, act, **given),
    ],
    "mlp": [
        lambda dtype, act, **given: problems.mlp(67, 91, 75, 45, dtype, act, gap=3, eps=1e-3, **given),
        lambda dtype, act, **given: problems.mlp(1, 1, 1, 1, dtype, act, **given),
    ],
    "inverted_residual": [
        lambda dtype, act, **given: problems.inverted_residual((2, 13, 9, 11), 37, 19, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((1, 1, 1, 1), 1, 1, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((3, 3, 5, 2), 5, 7, dtype, act, pad=2, **given),
        lambda dtype, act, **given: problems.inverted_residual((1, 5, 4, 9), 3, 2, dtype, act, pad=0, **given),
    ],
    "epilogue": [
        lambda dtype, act, **given: problems.epilogue(problems.matrix(37, 71, dtype, gap=3), act, **given),
        lambda dtype, act, **given: problems.epilogue(problems.image(1, 1, 1, 1, dtype), act, **given),
    ],
}
# Layers of the four models, with few rows or pixels: a block's own channels, kernels and depths.
LAYERS: dict[str, list[Make]] = {
    "linear": [
        lambda dtype, act: problems.linear(197, 576, 192, dtype, act, residual=False),  # DeiT-T's qkv
        lambda dtype, act: problems.linear(197, 192, 768, dtype, act),  # DeiT-T's second linear layer, and ConvNeXt's
        lambda dtype, act: problems.linear(49, 96, 384, dtype, act),
    ],
    "conv2d": [
        lambda dtype, act: problems.conv2d((1, 64, 12, 12), 64, (3, 3), dtype, act),  # ResNet34
        lambda dtype, act: problems.conv2d((2, 128, 7, 7), 256, (3, 3), dtype, act, stride=(2, 2), residual=False),
        lambda dtype, act: problems.conv2d((1, 64, 9, 9), 64, (5, 5), dtype, act),
        lambda dtype, act: problems.conv2d((1, 64, 14, 14), 128, (7, 7), dtype, act, stride=(2, 2), residual=False),
        lambda dtype, act: problems.conv2d((1, 16, 16, 16), 24, (3, 3), dtype, act, stride=(2, 2), residual=False),
    ],
    "depthwise_pointwise": [
        lambda dtype, act: problems.depthwise_pointwise((1, 96, 14, 14), 96, 7, dtype, act),  # ConvNeXt-T
        lambda dtype, act: problems.depthwise_pointwise((2, 192, 7, 7), 192, 7, dtype, act),
        # Its widths and others that strips of 7 or 8 pixels fill; heights that rows in pairs fill, and do not.
        lambda dtype, act: problems.depthwise_pointwise((1, 40, 6, 56), 24, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((1, 72, 6, 28), 16, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((2, 24, 6, 16), 40, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((2, 24, 5, 56), 24, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((1, 40, 11, 28), 16, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((3, 16, 3, 14), 8, 7, dtype, act, residual=False),
        lambda dtype, act: problems.depthwise_pointwise((5, 8, 7, 7), 24, 7, dtype, act, bias=False),
        lambda dtype, act: problems.depthwise_pointwise((3, 24, 9, 16), 40, 7, dtype, act),
        lambda dtype, act: problems.depthwise_pointwise((3, 8, 1, 8), 8, 7, dtype, act),
    ],
    "depthwise_conv2d": [
        # Widths that strips fill, and do not; heights that patches fill, and do not; channels that waves do not.
        lambda dtype, act: problems.depthwise_conv2d((1, 32, 9, 28), 3, dtype, act),  # MobileNetV2
        lambda dtype, act: problems.depthwise_conv2d((2, 24, 14, 17), 3, dtype, act, stride=2, residual=False),
        lambda dtype, act: problems.depthwise_conv2d((2, 40, 8, 14), 7, dtype, act, residual=False),  # ConvNeXt
        lambda dtype, act: problems.depthwise_conv2d((3, 16, 7, 7), 7, dtype, act),
        lambda dtype, act: problems.depthwise_conv2d((1, 24, 11, 9), 5, dtype, act),  # EfficientNet
        lambda dtype, act: problems.depthwise_conv2d((1, 40, 15, 16), 5, dtype, act, stride=2, bias=False),
        # Of those that are not fast: uneven, with more padding than kernel, and without any.
        lambda dtype, act: problems.depthwise_conv2d((2, 16, 9, 8), (3, 5), dtype, act, stride=(2, 1)),
        lambda dtype, act: problems.depthwise_conv2d((1, 8, 5, 6), 3, dtype, act, padding=(4, 5)),
        lambda dtype, act: problems.depthwise_conv2d((1, 8, 9, 9), 7, dtype, act, stride=2, padding=(0, 0)),
    ],
    "dual_linear": [lambda dtype, act: problems.dual_linear(197, 192, 192, 192, dtype, act)],
    "mlp": [
        lambda dtype, act: problems.mlp(49, 96, 384, 96, dtype, act),  # ConvNeXt-T
        lambda dtype, act: problems.mlp(197, 192, 768, 192, dtype, act, eps=1e-6),  # DeiT-T
    ],
    "inverted_residual": [
        lambda dtype, act, **given: problems.inverted_residual((1, 24, 16, 16), 144, 32, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((1, 32, 28, 14), 64, 64, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((1, 64, 14, 14), 64, 96, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((1, 96, 14, 14), 64, 160, dtype, act, **given),
        lambda dtype, act, **given: problems.inverted_residual((2, 160, 7, 7), 96, 160, dtype, act, **given),
    ],
    "max_pool": [
        lambda dtype, act: problems.max_pool((2, 64, 14, 15), (3, 3), dtype, stride=(2, 2), padding=(1, 1)),
        lambda dtype, act: problems.max_pool((5, 8, 3, 2), (2, 2), dtype, stride=(1, 1), padding=(1, 1)),
        lambda dtype, act: problems.max_pool((1, 16, 9, 9), (7, 2), dtype, stride=(3, 2), padding=(3, 0)),
    ],
    "average_pool": [
        lambda dtype, act: problems.average_pool((2, 320, 7, 7), dtype),
        lambda dtype, act: problems.average_pool((3, 8, 13, 11), dtype),
    ],
    "epilogue": [lambda dtype, act: problems.epilogue(problems.image(2, 64, 14, 14, dtype), act)],
}


def of_kernel(kernel: HipKernel) -> dict[str, int]:
    """What a kernel takes alone: a stride."""
    return {"stride": kernel.block[2]} if kernel.operator == "inverted_residual" else {}


def options(kernel: HipKernel) -> list[dict[str, bool]]:
    """With and without a bias and a residual."""
    given = [{"bias": True}, {"bias": False}]
    if kernel.operator in ("max_pool", "average_pool"):
        return [{}]
    if kernel.operator == "dual_linear":
        return given
    return [{**bias, "residual": residual} for bias in given for residual in (True, False)]


@every_kernel
def test_every_epilogue(kernel: HipKernel) -> None:
    for act in ACTIVATIONS if options(kernel) != [{}] else ("none",):
        for given in options(kernel):
            problem = SMALL[kernel.operator](DTYPES[kernel.dtype], act, **given, **of_kernel(kernel))
            assert problem.error(run(problem, kernel)) is None, (act, given)


@every_kernel
def test_several_tiles_in_any_order(kernel: HipKernel) -> None:
    problem = LARGE[kernel.operator](DTYPES[kernel.dtype], "gelu", **of_kernel(kernel))
    found = run(problem, kernel)
    assert problem.error(found) is None
    assert torch.equal(run(problem, kernel, backward=True), found)


@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS if k.operator == "conv2d" and k.aligned], ids=lambda kernel: kernel.name
)
def test_rows_in_which_taps_share_pixels(kernel: HipKernel) -> None:
    dtype = DTYPES[kernel.dtype]
    for problem in (
        problems.conv2d((3, 40, 9, 31), 72, (3, 3), dtype, "relu6"),
        problems.conv2d((2, 16, 11, 40), 8, (2, 5), dtype, "gelu", padding=(3, 7)),
        problems.conv2d((2, 8, 9, 97), 64, (3, 7), dtype, "silu", stride=(2, 1), residual=False),
        problems.conv2d((1, 72, 2, 331), 64, (1, 2), dtype, "none", padding=(0, 0), bias=False),
    ):
        found = run(problem, kernel)
        assert problem.error(found) is None
        assert torch.equal(run(problem, kernel, backward=True), found)


def takes(kernel: HipKernel, problem: Problem) -> bool:
    """Whether there is room in the kernel's tile, where that must hold all channels."""
    if kernel.operator == "mlp":
        x, _, _, w2, *_ = problem.operands
        return hip.mlp_kernels([kernel], x.shape[1], w2.shape[0]) == (kernel,)
    if kernel.operator == "inverted_residual":
        x, *_, w_pwl, _, _, _, stride, padding = problem.operands
        return hip.inverted_residual_kernels([kernel], x.shape[1], w_pwl.shape[0], (3, 3), stride, padding) == (kernel,)
    return True


@pytest.mark.parametrize("kernel", [slow(k) if k.dtype == "float16" else k for k in KERNELS], ids=lambda k: k.name)
def test_layers_of_the_models(kernel: HipKernel) -> None:
    for make in LAYERS[kernel.operator]:
        problem = make(DTYPES[kernel.dtype], "relu", **of_kernel(kernel))
        if not takes(kernel, problem):
            continue
        assert problem.error(run(problem, kernel)) is None


@pytest.mark.parametrize("kernel", [k for k in KERNELS if not k.aligned], ids=lambda kernel: kernel.name)
def test_sizes_that_vectors_do_not_fit(kernel: HipKernel) -> None:
    for make in ODD[kernel.operator]:
        for act, given in zip(list(ACTIVATIONS)[1:], options(kernel) * 2, strict=False):
            problem = make(DTYPES[kernel.dtype], act, **given, **of_kernel(kernel))
            assert problem.error(run(problem, kernel)) is None, (act, given)


@every_kernel
def test_nan_reaches_what_depends_on_it_and_nothing_else(kernel: HipKernel) -> None:
    problem = spoiled(LARGE[kernel.operator](DTYPES[kernel.dtype], "relu6", **of_kernel(kernel)))
    assert problem.error(run(problem, kernel)) is None


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.operator == "depthwise_conv2d"], ids=lambda k: k.name)
@pytest.mark.parametrize("window", [(3, 1), (3, 2), (5, 1), (7, 1)], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_depthwise_patches_keep_a_value_to_the_windows_that_have_it(
    kernel: HipKernel, window: tuple[int, int], value: float
) -> None:
    size, stride = window
    problem = problems.depthwise_conv2d((1, 40, 9, 15), size, DTYPES[kernel.dtype], "relu6", stride=stride)
    x = problem.operands[0]
    assert isinstance(x, Tensor)
    x[0, 5, 4, 5] = value
    assert problem.error(run(problem, kernel)) is None


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.operator == "depthwise_pointwise"], ids=lambda k: k.name)
@pytest.mark.parametrize("size", [(1, 40, 8, 14), (2, 40, 7, 7), (1, 40, 6, 16)], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_depthwise_strips_keep_a_value_to_the_windows_that_have_it(
    kernel: HipKernel, size: tuple[int, int, int, int], value: float
) -> None:
    problem = problems.depthwise_pointwise(size, 24, 7, DTYPES[kernel.dtype], "relu6")
    x = problem.operands[0]
    assert isinstance(x, Tensor)
    x[0, 5, 4, 5] = value
    assert problem.error(run(problem, kernel)) is None


def test_each_operator_and_dtype_has_kernels_of_both_kinds() -> None:
    found = {(kernel.operator, kernel.dtype, kernel.aligned) for kernel in ALL}
    both = {(o, dtype, aligned) for o in (*LARGE, *APART) for dtype in DTYPES for aligned in (True, False)}
    assert found == both - {(operator, dtype, False) for operator in ALIGNED for dtype in DTYPES}


def test_sides_that_cannot_be_counted_exactly_are_refused() -> None:
    kernel = next(kernel for kernel in KERNELS if kernel.name.startswith("conv2d_float16"))
    x = torch.zeros(1, 8, 1, 2**20, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(8, 1, 1, 8, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"8 channels of 1x1048576: HIP kernels take fewer than 2\^20 each way"):
        hip.conv2d(x, weight, None, None, "none", (1, 1), (0, 0), kernel)
