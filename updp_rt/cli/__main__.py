"""``python -m updp_rt.cli``, for launchers that start modules (torchrun, accelerate launch)."""

from updp_rt.cli import app

app()
