"""Fused operators in HIP for vision models, channels-last, compiled ahead of time and launched through a driver.

One source for AMD (MFMA) and NVIDIA (mma.sync). Importing this touches no device and opens no driver.
"""

from .add_layer_norm import add_layer_norm
from .attention import attention
from .average_pool import average_pool
from .conv2d import conv2d
from .conv2d_max_pool import conv2d_max_pool, pack_conv2d_max_pool
from .depthwise_conv2d import depthwise_conv2d
from .depthwise_pointwise import depthwise_pointwise
from .device import EmulatedMI100, device_of, emulated_mi100
from .dual_linear import dual_linear
from .epilogue import epilogue
from .inverted_residual import inverted_residual, inverted_residual_kernels, pack_inverted_residual
from .layer_norm import layer_norm
from .linear import linear
from .manifest import HipKernel, MissingObjectsError
from .max_pool import max_pool
from .mlp import mlp, mlp_kernels, pack_mlp
from .norm_linear import norm_linear
from .objects import Objects, load
from .prepend_tokens import prepend_tokens

__all__ = [
    "EmulatedMI100",
    "HipKernel",
    "MissingObjectsError",
    "Objects",
    "add_layer_norm",
    "attention",
    "average_pool",
    "conv2d",
    "conv2d_max_pool",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "device_of",
    "dual_linear",
    "emulated_mi100",
    "epilogue",
    "inverted_residual",
    "inverted_residual_kernels",
    "layer_norm",
    "linear",
    "load",
    "max_pool",
    "mlp",
    "mlp_kernels",
    "norm_linear",
    "pack_conv2d_max_pool",
    "pack_inverted_residual",
    "pack_mlp",
    "prepend_tokens",
]
