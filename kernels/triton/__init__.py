"""Fused operators in Triton for vision models, channels-last: their tiles, and what compilers make of them.

Importing this touches no device.
"""

from .add_layer_norm import add_layer_norm
from .attention import attention
from .average_pool import average_pool
from .conv2d import conv2d
from .depthwise_conv2d import depthwise_conv2d
from .depthwise_pointwise import depthwise_pointwise
from .dual_linear import dual_linear
from .epilogue import epilogue
from .inverted_residual import inverted_residual, pack_inverted_residual
from .layer_norm import layer_norm
from .linear import linear
from .max_pool import max_pool
from .mlp import mlp, pack_mlp
from .norm_linear import norm_linear
from .prepend_tokens import prepend_tokens
from .tile_tables import ARCHITECTURES, OPERATORS, tile, tiles
from .tiles import Tile

__all__ = [
    "ARCHITECTURES",
    "OPERATORS",
    "Tile",
    "add_layer_norm",
    "attention",
    "average_pool",
    "conv2d",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "epilogue",
    "inverted_residual",
    "layer_norm",
    "linear",
    "max_pool",
    "mlp",
    "norm_linear",
    "pack_inverted_residual",
    "pack_mlp",
    "prepend_tokens",
    "tile",
    "tiles",
]
