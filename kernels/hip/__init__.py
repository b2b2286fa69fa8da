"""Fused operators in HIP for vision models, channels-last, compiled ahead of time and launched through a driver.

One source for AMD (MFMA) and NVIDIA (mma.sync). Importing this touches no device and opens no driver.
"""

from .device import EmulatedMI100, device_of, emulated_mi100
from .launch import conv2d, depthwise_pointwise, dual_linear, epilogue, linear
from .manifest import HipKernel, MissingObjectsError
from .objects import Objects, load

__all__ = [
    "EmulatedMI100",
    "HipKernel",
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
]
