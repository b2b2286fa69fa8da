"""Unconstrained channel pruning: every layer keeps the inputs it wants; reordering removes most of the copies."""

from updp_rt.channels.atoms import Channels
from updp_rt.channels.errors import ChannelError
from updp_rt.channels.export import mask_model
from updp_rt.channels.graph import Graph, Rule
from updp_rt.channels.operators import add_operator, elementwise, pointwise
from updp_rt.channels.plan import Copies
from updp_rt.channels.prune import ChannelResult, LayerReport, prune_channels
from updp_rt.channels.select import Selecting, Selection, select_input
from updp_rt.channels.sizes import replace_tensor
from updp_rt.channels.trace import Trace, trace
from updp_rt.channels.widths import read_widths, tell_widths

__all__ = [
    "ChannelError",
    "ChannelResult",
    "Channels",
    "Copies",
    "Graph",
    "LayerReport",
    "Rule",
    "Selecting",
    "Selection",
    "Trace",
    "add_operator",
    "elementwise",
    "mask_model",
    "pointwise",
    "prune_channels",
    "read_widths",
    "replace_tensor",
    "select_input",
    "tell_widths",
    "trace",
]
