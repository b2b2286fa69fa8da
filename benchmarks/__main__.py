"""``python -m benchmarks``: the suites' commands."""

from benchmarks.commands import app

if __name__ == "__main__":
    app()
