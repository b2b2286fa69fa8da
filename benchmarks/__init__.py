"""Measurements: not tests. Results are kept in ``results/<device>/``."""
