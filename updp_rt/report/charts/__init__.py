"""The page's charts: plain functions from data to SVG, each at a wide and at a narrow width, each with its table."""
