"""Projected times of gfx908 kernels: what they would take on an MI100, by a stated model; no measurements.

What a launch executes is counted by running some of its workgroups on the emulator at the launch's real sizes
(`sampling`); `model` turns the counts into a time, and says which resource bounds it; `machine` holds the MI100's
numbers with their sources. It serves to choose tiles without a card, and claims nothing that only a card can show.
"""

from updp_rt.projection.machine import MI100, Machine
from updp_rt.projection.model import Launch, Projection, Traffic, Work, project

LABEL = "projection, not measured"

__all__ = ["LABEL", "MI100", "Launch", "Machine", "Projection", "Traffic", "Work", "project"]
