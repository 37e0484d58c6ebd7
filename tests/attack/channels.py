"""The host's three sockets, and what a stranger says to each of them."""

import zmtp

KINDS = {"control": b"DEALER", "broadcast": b"SUB", "submit": b"PUSH"}


def opening(channel, identity=b""):
    """Greeting and READY of a peer that fits."""
    return zmtp.GREETING + zmtp.ready(KINDS[channel], identity)


def address(target, channel):
    return getattr(target, channel)
