"""Certificates: that a fused model computes what its source does, in figures."""

from updp_rt.verification.adversarial import adversarial, move_weights, neighbours
from updp_rt.verification.certificate import (
    Case,
    Certificate,
    Inputs,
    KernelRecord,
    Logits,
    ModelRecord,
    ModuleRecord,
)
from updp_rt.verification.judge import BINS, judge, judge_logits

__all__ = [
    "BINS",
    "Case",
    "Certificate",
    "Inputs",
    "KernelRecord",
    "Logits",
    "ModelRecord",
    "ModuleRecord",
    "adversarial",
    "judge",
    "judge_logits",
    "move_weights",
    "neighbours",
]
