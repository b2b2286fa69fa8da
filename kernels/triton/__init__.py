"""Fused operators in Triton for vision models, channels-last: their tiles, and what compilers make of them.

Importing this registers ``torch.ops.updp_rt.triton_*`` and touches no device.
"""

from ..checks import ACTIVATIONS
from ..packing import pack_conv_weight, pack_depthwise_weight
from .conv2d import conv2d
from .depthwise_pointwise import depthwise_pointwise
from .dual_linear import dual_linear
from .epilogue import epilogue
from .linear import linear
from .tiles import ARCHITECTURES, OPERATORS, Tile, architecture, tile, tiles

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "OPERATORS",
    "Tile",
    "architecture",
    "conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "epilogue",
    "linear",
    "pack_conv_weight",
    "pack_depthwise_weight",
    "tile",
    "tiles",
]
