"""Numerical proof: that pruning's two ends and its merge are exact, and the figures of a fused model's certificate."""

from updp_rt.verification.adversarial import adversarial, neighbours
from updp_rt.verification.certificate import (
    Case,
    Certificate,
    Inputs,
    KernelRecord,
    Logits,
    ModelRecord,
    ModuleRecord,
)
from updp_rt.verification.invariants import Check, Verdict, verify_model
from updp_rt.verification.judge import BINS, judge, judge_logits

__all__ = [
    "BINS",
    "Case",
    "Certificate",
    "Check",
    "Inputs",
    "KernelRecord",
    "Logits",
    "ModelRecord",
    "ModuleRecord",
    "Verdict",
    "adversarial",
    "judge",
    "judge_logits",
    "neighbours",
    "verify_model",
]
