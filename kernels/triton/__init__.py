"""Fused operators in Triton for vision models, channels-last: their tiles, and what compilers make of them.

Importing this touches no device.
"""

from .conv2d import conv2d
from .depthwise_pointwise import depthwise_pointwise
from .dual_linear import dual_linear
from .epilogue import epilogue
from .linear import linear
from .tile_tables import ARCHITECTURES, OPERATORS, tile, tiles
from .tiles import Tile

__all__ = [
    "ARCHITECTURES",
    "OPERATORS",
    "Tile",
    "conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "epilogue",
    "linear",
    "tile",
    "tiles",
]
