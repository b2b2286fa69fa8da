"""Numerical proof that pruning's two ends and its merge are exact."""

from updp_rt.verify.invariants import Check, Verdict, verify_model

__all__ = ["Check", "Verdict", "verify_model"]
