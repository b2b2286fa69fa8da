"""Frozen problems of `benchmarks.projection`: all that DeiT-T, ConvNeXt-T and ResNet34 meet at batch 128 and 224.

Unpruned and with every block merged, as `updp_rt.projection.problems.model_problems` lists them, without attention and
grouped convolutions, which have no kernel of their own. A test compares them with the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from updp_rt.backends import Geometry, Problem

BATCH = 128
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# Operator, input, weights, residual, activation; of convolutions also stride and padding.
_DEIT: tuple[tuple[Any, ...], ...] = (
    ("conv2d", (128, 3, 224, 224), ((192, 3, 16, 16), (192,)), False, "none", (16, 16), (0, 0)),
    ("linear", (25216, 192), ((576, 192), (576,)), False, "none"),
    ("linear", (25216, 192), ((192, 192), (192,)), True, "none"),
    ("linear", (25216, 192), ((768, 192), (768,)), False, "gelu"),
    ("linear", (25216, 768), ((192, 768), (192,)), True, "none"),
    ("linear", (128, 192), ((1000, 192), (1000,)), False, "none"),
    ("dual_linear", (25216, 192), ((192, 192), (192, 192), (192,)), False, "gelu"),
)
_CONVNEXT: tuple[tuple[Any, ...], ...] = (
    ("conv2d", (128, 3, 224, 224), ((96, 3, 4, 4), (96,)), False, "none", (4, 4), (0, 0)),
    ("linear", (401408, 96), ((384, 96), (384,)), False, "gelu"),
    ("linear", (401408, 384), ((96, 384), (96,)), True, "none"),
    ("conv2d", (128, 96, 56, 56), ((192, 96, 2, 2), (192,)), False, "none", (2, 2), (0, 0)),
    ("linear", (100352, 192), ((768, 192), (768,)), False, "gelu"),
    ("linear", (100352, 768), ((192, 768), (192,)), True, "none"),
    ("conv2d", (128, 192, 28, 28), ((384, 192, 2, 2), (384,)), False, "none", (2, 2), (0, 0)),
    ("linear", (25088, 384), ((1536, 384), (1536,)), False, "gelu"),
    ("linear", (25088, 1536), ((384, 1536), (384,)), True, "none"),
    ("conv2d", (128, 384, 14, 14), ((768, 384, 2, 2), (768,)), False, "none", (2, 2), (0, 0)),
    ("linear", (6272, 768), ((3072, 768), (3072,)), False, "gelu"),
    ("linear", (6272, 3072), ((768, 3072), (768,)), True, "none"),
    ("linear", (128, 768), ((1000, 768), (1000,)), False, "none"),
    *(
        (
            "depthwise_pointwise",
            (128, channels, side, side),
            ((channels, 1, 7, 7), (channels,), (channels, channels, 1, 1), (channels,)),
            True,
            "gelu",
            (1, 1),
            (3, 3),
        )
        for channels, side in ((96, 56), (192, 28), (384, 14), (768, 7))
    ),
)
_RESNET: tuple[tuple[Any, ...], ...] = (
    ("conv2d", (128, 3, 224, 224), ((64, 3, 7, 7), (64,)), False, "relu", (2, 2), (3, 3)),
    ("conv2d", (128, 64, 56, 56), ((64, 64, 3, 3), (64,)), False, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 64, 56, 56), ((64, 64, 3, 3), (64,)), True, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 64, 56, 56), ((128, 64, 3, 3), (128,)), False, "relu", (2, 2), (1, 1)),
    ("conv2d", (128, 64, 56, 56), ((128, 64, 1, 1), (128,)), False, "none", (2, 2), (0, 0)),
    ("conv2d", (128, 128, 28, 28), ((128, 128, 3, 3), (128,)), False, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 128, 28, 28), ((128, 128, 3, 3), (128,)), True, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 128, 28, 28), ((256, 128, 3, 3), (256,)), False, "relu", (2, 2), (1, 1)),
    ("conv2d", (128, 128, 28, 28), ((256, 128, 1, 1), (256,)), False, "none", (2, 2), (0, 0)),
    ("conv2d", (128, 256, 14, 14), ((256, 256, 3, 3), (256,)), False, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 256, 14, 14), ((256, 256, 3, 3), (256,)), True, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 256, 14, 14), ((512, 256, 3, 3), (512,)), False, "relu", (2, 2), (1, 1)),
    ("conv2d", (128, 256, 14, 14), ((512, 256, 1, 1), (512,)), False, "none", (2, 2), (0, 0)),
    ("conv2d", (128, 512, 7, 7), ((512, 512, 3, 3), (512,)), False, "relu", (1, 1), (1, 1)),
    ("conv2d", (128, 512, 7, 7), ((512, 512, 3, 3), (512,)), True, "relu", (1, 1), (1, 1)),
    ("linear", (128, 512), ((1000, 512), (1000,)), False, "none"),
)
MODELS = {"deit_tiny_patch16_224": _DEIT, "convnext_tiny": _CONVNEXT, "resnet34": _RESNET}


def problems(model: str, dtype: torch.dtype) -> Iterator[Problem]:
    """The frozen problems of one of `MODELS`."""
    for operator, x, weights, residual, act, *places in MODELS[model]:
        groups = x[1] if operator == "depthwise_pointwise" else 1
        geometry = Geometry(*places, groups) if places else Geometry()
        yield Problem(operator, x, weights, residual, act, geometry, dtype, "cpu")


def square(size: int) -> Problem:
    """A product of two square float16 matrices."""
    return Problem("linear", (size, size), ((size, size), None), False, "none", Geometry(), torch.float16, "cpu")
