"""Fused operators in HIP for vision models, channels-last, compiled ahead of time and launched through a driver.

One source for AMD (MFMA) and NVIDIA (mma.sync). Importing this touches no device and opens no driver.
"""

from ..packing import pack_conv_weight, pack_depthwise_weight
from .device import EmulatedMI100, device_of, emulated_mi100
from .manifest import Kernel, MissingObjectsError
from .objects import Objects, load
from .operators import conv2d, depthwise_pointwise, dual_linear, epilogue, linear

__all__ = [
    "EmulatedMI100",
    "Kernel",
    "MissingObjectsError",
    "Objects",
    "conv2d",
    "depthwise_pointwise",
    "device_of",
    "dual_linear",
    "emulated_mi100",
    "epilogue",
    "linear",
    "load",
    "pack_conv_weight",
    "pack_depthwise_weight",
]
