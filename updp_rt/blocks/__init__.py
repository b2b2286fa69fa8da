"""The families of timm models: one file each, and the functions over whole models."""

from updp_rt.blocks.check import Check, Verdict, check_model
from updp_rt.blocks.family import Family
from updp_rt.blocks.inspect import BlockReport, Cost, ModelReport, count_costs, count_depth, inspect, model_input_size
from updp_rt.blocks.merged import MergedBlock, NoAttention, TokenPool
from updp_rt.blocks.model import (
    FAMILIES,
    BlockInfo,
    UnsupportedModelError,
    add_family,
    find_blocks,
    find_family,
    make_progressive,
    merge_model,
    merge_origins,
    progressive_blocks,
    prunable_blocks,
    pruned_bodies,
    set_lambda,
    skippable_blocks,
    take_bodies,
)
from updp_rt.blocks.norms import copy_activation, pruned_batchnorm
from updp_rt.blocks.progressive import MergeOrigin, ProgressiveBlock
from updp_rt.blocks.steps import Fade, Gate, Keep, Shrink, fade

__all__ = [
    "FAMILIES",
    "BlockInfo",
    "BlockReport",
    "Check",
    "Cost",
    "Fade",
    "Family",
    "Gate",
    "Keep",
    "MergeOrigin",
    "MergedBlock",
    "ModelReport",
    "NoAttention",
    "ProgressiveBlock",
    "Shrink",
    "TokenPool",
    "UnsupportedModelError",
    "Verdict",
    "add_family",
    "check_model",
    "copy_activation",
    "count_costs",
    "count_depth",
    "fade",
    "find_blocks",
    "find_family",
    "inspect",
    "make_progressive",
    "merge_model",
    "merge_origins",
    "model_input_size",
    "progressive_blocks",
    "prunable_blocks",
    "pruned_batchnorm",
    "pruned_bodies",
    "set_lambda",
    "skippable_blocks",
    "take_bodies",
]
