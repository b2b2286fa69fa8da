"""Rivals of UPDP, one file each, on the same stages: what decides, what is trained, what is merged or left out.

`updp_rt.pruning.method.Method` is the seam. A rival is a subclass of it that overrides what it does otherwise, and is
registered here; everything around it (data, start weights, budget, seeds, checkpoints, merging, timing) is shared.
"""

from updp_rt.methods.depthshrinker import DepthShrinker
from updp_rt.methods.dp import DP
from updp_rt.methods.drop import Drop
from updp_rt.methods.hetdpt import HetDPT
from updp_rt.methods.hvt import HVT
from updp_rt.methods.layer_folding import LayerFolding
from updp_rt.methods.layermerge import LayerMerge
from updp_rt.methods.nose import Nose
from updp_rt.methods.s2vite import S2ViTE
from updp_rt.methods.scop import Scop
from updp_rt.methods.toast import Toast
from updp_rt.methods.wdpruning import WDPruning, WDPruningAsCoded
from updp_rt.methods.xpruner import XPruner
from updp_rt.pruning.method import METHODS, Method, find_method, register
from updp_rt.pruning.pipeline import merge_folder, prune

_DEPTH = (Drop(), DepthShrinker(), LayerFolding(), DP(), LayerMerge(), HetDPT(), Nose(), Toast())
_WIDTH = (WDPruning(), WDPruningAsCoded(), S2ViTE(), Scop(), XPruner(), HVT())
for _method in (*_DEPTH, *_WIDTH):
    register(_method)

__all__ = [
    "DP",
    "HVT",
    "METHODS",
    "DepthShrinker",
    "Drop",
    "HetDPT",
    "LayerFolding",
    "LayerMerge",
    "Method",
    "Nose",
    "S2ViTE",
    "Scop",
    "Toast",
    "WDPruning",
    "WDPruningAsCoded",
    "XPruner",
    "find_method",
    "merge_folder",
    "prune",
    "register",
]
