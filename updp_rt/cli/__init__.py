"""The command line: ``updp-rt``."""

from updp_rt.cli.app import app

__all__ = ["app"]
