"""The families of timm models: one file each, and the functions over whole models."""

from updp_rt.blocks.inspect import BlockReport, Cost, ModelReport, count_costs, count_depth, inspect, model_input_size
from updp_rt.blocks.model import (
    FAMILIES,
    BlockInfo,
    UnsupportedModelError,
    find_blocks,
    find_family,
    make_progressive,
    merge_model,
    merge_origins,
    progressive_blocks,
    prunable_blocks,
    pruned_bodies,
    set_lambda,
)
from updp_rt.blocks.progressive import MergeOrigin, ProgressiveBlock

__all__ = [
    "FAMILIES",
    "BlockInfo",
    "BlockReport",
    "Cost",
    "MergeOrigin",
    "ModelReport",
    "ProgressiveBlock",
    "UnsupportedModelError",
    "count_costs",
    "count_depth",
    "find_blocks",
    "find_family",
    "inspect",
    "make_progressive",
    "merge_model",
    "merge_origins",
    "model_input_size",
    "progressive_blocks",
    "prunable_blocks",
    "pruned_bodies",
    "set_lambda",
]
