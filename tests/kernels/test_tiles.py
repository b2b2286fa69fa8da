"""The tables of tiles, and what the operators refuse, without running anything."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from tests.kernels import problems
from updp_rt.kernels import DTYPES
from updp_rt.kernels import triton as operators
from updp_rt.kernels.architecture import architecture
from updp_rt.kernels.triton import ARCHITECTURES, OPERATORS, tile, tiles

PROBLEMS = {
    "linear": problems.linear(17, 31, 53, torch.float16, "gelu", gap=3),
    "conv2d": problems.conv2d((2, 5, 9, 7), 11, (3, 3), torch.float16, "relu", stride=(2, 1)),
    "depthwise_pointwise": problems.depthwise_pointwise((2, 5, 9, 7), 11, 3, torch.float16, "silu", stride=2),
    "dual_linear": problems.dual_linear(17, 31, 53, 7, torch.float16, "none"),
    "mlp": problems.mlp(17, 31, 43, 53, torch.float16, "gelu"),
    "inverted_residual": problems.inverted_residual((2, 5, 9, 7), 23, 11, torch.float16, "silu", stride=2),
    "depthwise_conv2d": problems.depthwise_conv2d((2, 5, 9, 7), 3, torch.float16, "silu", stride=2),
    "max_pool": problems.max_pool((2, 5, 9, 7), (3, 3), torch.float16, stride=(2, 2), padding=(1, 1)),
    "average_pool": problems.average_pool((2, 5, 9, 7), torch.float16),
    "epilogue": problems.epilogue(problems.image(2, 5, 9, 7, torch.float16), "relu6"),
}


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "interpreter"])
def test_names_are_unique_and_tables_serialise(arch: str) -> None:
    for operator in OPERATORS:
        for dtype in DTYPES if arch != "interpreter" else (torch.float16, torch.float32):
            table = tiles(operator, arch, dtype)
            assert len({entry.name for entry in table}) == len(table)
            assert table or (operator, arch, dtype) == ("attention", "sm_90", torch.float32)
            for entry in table:
                assert tile(operator, arch, dtype, entry.name) == entry
                assert type(entry)(**json.loads(json.dumps(asdict(entry)))) == entry


@pytest.mark.parametrize(("arch", "nearest"), [("gfx950", "gfx90a"), ("gfx906", "gfx90a"), ("sm_120", "sm_90")])
def test_other_architectures_use_the_nearest_table(arch: str, nearest: str) -> None:
    assert tiles("linear", arch, torch.float16) == tiles("linear", nearest, torch.float16)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="no tiles for architecture 'xpu'"):
        tiles("linear", "xpu", torch.float16)
    with pytest.raises(ValueError, match="operator 'conv3d'"):
        tiles("conv3d", "gfx908", torch.float16)
    with pytest.raises(ValueError, match=r"no tiles for torch\.float64"):
        tiles("linear", "gfx908", torch.float64)
    with pytest.raises(ValueError, match=r"no tile '1x1x1w1s1', but 32x64x64w4s2"):
        tile("linear", "gfx908", torch.float16, "1x1x1w1s1")
    with pytest.raises(ValueError, match="no kernels are compiled for cpu"):
        architecture(torch.device("cpu"))


def test_operands_that_do_not_fit_are_refused() -> None:
    x, weight, bias, residual, act = PROBLEMS["linear"].operands
    small = tiles("linear", "gfx908", torch.float16)[0]
    for message, operands in {
        "activation 'tanh'": (x, weight, bias, residual, "tanh"),
        "all tensors need one dtype": (x, weight.float(), bias, residual, act),
        r"weight must be contiguous \[31, 53\]": (x, weight.T.contiguous().T, bias, residual, act),
        r"x must be \[rows, 53\] with contiguous rows": (x.T.contiguous().T, weight, bias, residual, act),
        "residual has 5 rows, x 17": (x, weight, bias, residual[:5], act),
    }.items():
        with pytest.raises(ValueError, match=message):
            operators.linear(*operands, small)
    image, *rest = PROBLEMS["conv2d"].operands
    with pytest.raises(ValueError, match="channels_last"):
        operators.conv2d(image.contiguous(), *rest, small)
    with pytest.raises(ValueError, match="does not fit"):
        operators.conv2d(image[:1, :, :1], *rest[:-1], (0, 0), small)


@pytest.mark.slow
def test_import_touches_no_device() -> None:
    code = "import torch, updp_rt.kernels.triton; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
