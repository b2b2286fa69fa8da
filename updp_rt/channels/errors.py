"""The one error of channel pruning."""


class ChannelError(ValueError):
    """Channels that cannot be pruned as asked: says which layer or operator, and what to do."""
