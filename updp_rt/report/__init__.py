"""One page of HTML about a run or a saved model, and the timing of it that the page draws."""

from updp_rt.report.collect import PROFILE
from updp_rt.report.profile import profile
from updp_rt.report.write import write_report

__all__ = ["PROFILE", "profile", "write_report"]
