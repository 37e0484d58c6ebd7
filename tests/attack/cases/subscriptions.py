"""Subscriptions of strangers: hoarded, and made and ended without pause."""

import zmtp
from arena import Arena, Case
from channels import opening
from swarm import Swarm


def hoard(target, running, connections=200, prefixes=2050, length=122):
    """Plain subscribers to as many different prefixes as they are given room for."""
    return Hoard(target.broadcast, connections, opening("broadcast"), prefixes, length).run(running)


class Hoard(Swarm):
    def __init__(self, address, count, first, prefixes, length):
        super().__init__(address, count, first)
        self.prefixes, self.length = prefixes, length

    def next_words(self, connection):
        # Different ones on each connection, so that none shares a place with another's.
        head = b"%08d" % self.made
        names = (head + (b"%08d" % number).rjust(self.length - 8, b"x") for number in range(self.prefixes))
        return b"".join(map(zmtp.subscribe, names))


def churn(target, running):
    """Plain subscribers that change their minds as fast as they can."""
    # To what every message goes through, and to others.
    prefixes = (b"", b"W", b"I", b"T", b"Thonest", *(b"x%d" % number for number in range(8)))
    flood = b"".join(zmtp.subscribe(prefix) + zmtp.cancel(prefix) for prefix in prefixes)
    return Swarm(target.broadcast, 4, opening("broadcast"), flood=flood).run(running)


def run_hoard(settings, report):
    with Arena(settings, report) as arena:
        arena.attack(settings.span(4, 10), (hoard, {}))
        arena.judge_joins()
        arena.judge_latency()
        arena.judge_memory()


def run_churn(settings, report):
    with Arena(settings, report) as arena:
        arena.compare_latency(settings.span(3, 10), (churn, {}))
        arena.judge_joins()


CASES = [
    Case("subscription-hoard", "200 plain subscribers to 2,050 prefixes of 122 octets each", run_hoard),
    Case("subscription-churn", "4 plain subscribers change their minds as fast as they can", run_churn),
]
