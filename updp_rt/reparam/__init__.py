"""Exact algebra of linear layers: no model, no device, no training. All arithmetic is float64."""

from updp_rt.reparam.affine import AffineConv, conv_padding
from updp_rt.reparam.chain import fold_chain, merge_chain
from updp_rt.reparam.compose import centre_tap, compose, compose_chain, head_padding, move_padding
from updp_rt.reparam.errors import MergeError
from updp_rt.reparam.fold import (
    batchnorm_affine,
    diagonal,
    fold_batchnorm,
    fold_batchnorm_before,
    is_batchnorm,
    scale_input,
    scale_output,
)
from updp_rt.reparam.skip import add_identity, add_parallel

__all__ = [
    "AffineConv",
    "MergeError",
    "add_identity",
    "add_parallel",
    "batchnorm_affine",
    "centre_tap",
    "compose",
    "compose_chain",
    "conv_padding",
    "diagonal",
    "fold_batchnorm",
    "fold_batchnorm_before",
    "fold_chain",
    "head_padding",
    "is_batchnorm",
    "merge_chain",
    "move_padding",
    "scale_input",
    "scale_output",
]
