"""Methods against each other on one model: the same data, start weights, budget and seeds, and latency as measured.

A comparison is a folder. `run_jobs` fills it, job by job, and goes on where it was stopped; `measure` times all models
that came of it; `read_comparison` and `standings` read it; `updp_rt.report` draws it.
"""

from updp_rt.comparison.jobs import Contest, run_jobs
from updp_rt.comparison.plan import CompareConfig, Job, plan_jobs
from updp_rt.comparison.published import PUBLISHED, Published, published_rows
from updp_rt.comparison.standings import Comparison, Standing, front, read_comparison, standings
from updp_rt.comparison.timing import measure
from updp_rt.comparison.width import WIDTHS

__all__ = [
    "PUBLISHED",
    "WIDTHS",
    "CompareConfig",
    "Comparison",
    "Contest",
    "Job",
    "Published",
    "Standing",
    "front",
    "measure",
    "plan_jobs",
    "published_rows",
    "read_comparison",
    "run_jobs",
    "standings",
]
