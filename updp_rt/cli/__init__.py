"""The command line: ``updp-rt``. Importing it registers the commands of every module here that has some."""

from updp_rt.cli import (
    channels,
    check,
    compare,
    demo,
    emulate,
    export,
    kernels,
    models,
    project,
    prune,
    report,
    runtime,
    train,
    verify,
)
from updp_rt.cli.app import app

__all__ = [
    "app",
    "channels",
    "check",
    "compare",
    "demo",
    "emulate",
    "export",
    "kernels",
    "models",
    "project",
    "prune",
    "report",
    "runtime",
    "train",
    "verify",
]
