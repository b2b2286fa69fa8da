"""The one error of channel pruning, and what it says of others."""


class ChannelError(ValueError):
    """Channels that cannot be pruned as asked: says which layer or operator, and what to do."""


def one_line(error: Exception) -> str:
    """The beginning of another error's message, on one line."""
    return " ".join(str(error).split())[:300]
