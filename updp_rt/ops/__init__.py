"""The fused operators: their plain meaning, their torch operators, how exact they must be.

Convolution, linear layer, depthwise followed by pointwise convolution, and two linear layers into one sum, each with
bias, residual and activation in one pass; and attention from a joint projection.
"""

from updp_rt.ops.functional import attention, conv2d, depthwise_pointwise, dual_linear, linear
from updp_rt.ops.library import InferenceOnlyError
from updp_rt.ops.reference import ACTIVATIONS
from updp_rt.ops.tolerance import Accuracy, accuracy

__all__ = [
    "ACTIVATIONS",
    "Accuracy",
    "InferenceOnlyError",
    "accuracy",
    "attention",
    "conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "linear",
]
