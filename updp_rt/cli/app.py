"""``updp-rt``: the commands, and how they end when something is wrong."""

from __future__ import annotations

import errno
import sys
from typing import Any

import typer
from typer.core import TyperGroup


class _Group(TyperGroup):
    """Turns the errors a user can mend into one line on stderr and exit status 2; others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # What this package raises is meant for users; of others, what wrong files and values raise.
            ours = type(error).__module__.startswith("updp_rt.")
            if isinstance(error, typer.Exit) or not (ours or isinstance(error, ValueError | OSError | EOFError)):
                raise
            print(f"updp-rt: {_one_line(error)}", file=sys.stderr)
            raise typer.Exit(2) from error


def _one_line(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        parts = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors(include_url=False))
        return "; ".join(parts)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}{_ADVICE.get(error.errno or 0, '')}"
    return " ".join(str(error).split()) or type(error).__name__


_ADVICE = {errno.ENOSPC: "; free some, or write elsewhere", errno.EDQUOT: "; free some, or write elsewhere"}

app = typer.Typer(
    name="updp-rt",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make vision models faster: prune their depth (slow blocks become one convolution or one linear layer), "
    "and run them on fused kernels.",
)
