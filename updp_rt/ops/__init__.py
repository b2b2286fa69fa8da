"""The fused operators, one file each: plain meaning, checks, shapes, costs, and ``torch.ops.updp_rt.<name>``.

Convolution, depthwise too, linear layer, depthwise followed by pointwise convolution, and two linear layers into one
sum, each with bias, residual and activation in one pass; whole blocks in one pass, a transformer's MLP and an inverted
residual; layer norms, of a sum and before a linear layer too; attention from a joint projection, and tokens behind a
class token with positions added; and pools, one of them behind a ResNet's first convolution.
"""

from updp_rt.ops.activations import ACTIVATIONS
from updp_rt.ops.add_layer_norm import ADD_LAYER_NORM, add_layer_norm
from updp_rt.ops.attention import ATTENTION, attention
from updp_rt.ops.average_pool import AVERAGE_POOL, average_pool
from updp_rt.ops.conv2d import CONV2D, conv2d
from updp_rt.ops.conv2d_max_pool import CONV2D_MAX_POOL, conv2d_max_pool
from updp_rt.ops.depthwise_conv2d import DEPTHWISE_CONV2D, depthwise_conv2d
from updp_rt.ops.depthwise_pointwise import DEPTHWISE_POINTWISE, depthwise_pointwise
from updp_rt.ops.dual_linear import DUAL_LINEAR, dual_linear
from updp_rt.ops.inverted_residual import INVERTED_RESIDUAL, inverted_residual
from updp_rt.ops.layer_norm import LAYER_NORM, layer_norm
from updp_rt.ops.library import OPERATORS, InferenceOnlyError, kept_operators, register
from updp_rt.ops.linear import LINEAR, linear
from updp_rt.ops.max_pool import MAX_POOL, max_pool
from updp_rt.ops.mlp import MLP, mlp
from updp_rt.ops.norm_linear import NORM_LINEAR, norm_linear
from updp_rt.ops.operator import ImageOperator, Operator, RowOperator, Weights
from updp_rt.ops.parts import Part, part_problems
from updp_rt.ops.prepend_tokens import PREPEND_TOKENS, prepend_tokens
from updp_rt.ops.problem import Problem
from updp_rt.ops.tolerance import Accuracy, accuracy

__all__ = [
    "ACTIVATIONS",
    "ADD_LAYER_NORM",
    "ATTENTION",
    "AVERAGE_POOL",
    "CONV2D",
    "CONV2D_MAX_POOL",
    "DEPTHWISE_CONV2D",
    "DEPTHWISE_POINTWISE",
    "DUAL_LINEAR",
    "INVERTED_RESIDUAL",
    "LAYER_NORM",
    "LINEAR",
    "MAX_POOL",
    "MLP",
    "NORM_LINEAR",
    "OPERATORS",
    "PREPEND_TOKENS",
    "Accuracy",
    "ImageOperator",
    "InferenceOnlyError",
    "Operator",
    "Part",
    "Problem",
    "RowOperator",
    "Weights",
    "accuracy",
    "add_layer_norm",
    "attention",
    "average_pool",
    "conv2d",
    "conv2d_max_pool",
    "depthwise_conv2d",
    "depthwise_pointwise",
    "dual_linear",
    "inverted_residual",
    "kept_operators",
    "layer_norm",
    "linear",
    "max_pool",
    "mlp",
    "norm_linear",
    "part_problems",
    "prepend_tokens",
    "register",
]
