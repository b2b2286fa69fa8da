"""Checks of what kernels are given, one operator a file, whatever language the kernels are written in.

In all of them tensors are float32, float16 or bfloat16 and of x's dtype; biases may be of any float dtype for Triton's
kernels and are float32 for HIP's. `act` is none, relu, relu6, gelu (exact) or silu. Images are ``[N, C, H, W]`` in
channels-last memory; rows are contiguous and may lie any distance apart; weights are contiguous.
"""

from .attention import HEAD_DEPTHS, check_attention
from .conv2d import check_conv2d
from .conv2d_max_pool import CONVOLUTION, POOL, STEM_ACTIVATIONS, STEM_CHANNELS, check_conv2d_max_pool
from .depthwise_conv2d import check_depthwise_conv2d
from .depthwise_pointwise import check_depthwise_pointwise
from .dual_linear import check_dual_linear
from .epilogue import check_epilogue
from .inverted_residual import check_inverted_residual, check_inverted_residual_weights
from .layer_norm import check_add_layer_norm, check_layer_norm
from .linear import check_linear
from .mlp import check_mlp, check_mlp_weights
from .norm_linear import check_norm_linear
from .pools import check_average_pool, check_max_pool
from .prepend_tokens import check_prepend_tokens
from .tensors import FAR, check

__all__ = [
    "CONVOLUTION",
    "FAR",
    "HEAD_DEPTHS",
    "POOL",
    "STEM_ACTIVATIONS",
    "STEM_CHANNELS",
    "check",
    "check_add_layer_norm",
    "check_attention",
    "check_average_pool",
    "check_conv2d",
    "check_conv2d_max_pool",
    "check_depthwise_conv2d",
    "check_depthwise_pointwise",
    "check_dual_linear",
    "check_epilogue",
    "check_inverted_residual",
    "check_inverted_residual_weights",
    "check_layer_norm",
    "check_linear",
    "check_max_pool",
    "check_mlp",
    "check_mlp_weights",
    "check_norm_linear",
    "check_prepend_tokens",
]
