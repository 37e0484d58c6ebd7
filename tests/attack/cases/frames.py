"""Strangers that send more than anybody could want of them: empty frames, messages that never end, messages octet by octet."""

import zmtp
from arena import Arena, Case
from channels import KINDS, address, opening
from swarm import Swarm

CONNECTIONS = 200
EMPTY = zmtp.frame(b"")
HALF = 800 << 10  # octets
UNFINISHED = zmtp.frame(bytes(900 << 10))[: HALF + 9]
# On broadcast a frame may be no larger than a subscription: many small ones that belong to one message instead.
PIECES = zmtp.frame(bytes(200), zmtp.MORE)


def empty_frames(target, running, channel, glued=False):
    swarm = Swarm(address(target, channel), CONNECTIONS, opening(channel), flood=EMPTY, glued=glued)
    return swarm.run(running)


def half_messages(target, running, channel, glued=False):
    """Each sends 800 KB of a message that would be larger, and then nothing."""
    return Swarm(address(target, channel), CONNECTIONS, opening(channel), UNFINISHED, glued=glued).run(running)


def endless_messages(target, running, channel):
    """Frames that announce another, for ever."""
    swarm = Swarm(address(target, channel), CONNECTIONS, opening(channel), flood=PIECES)
    return swarm.run(running)


class Tricklers(Swarm):
    """Each sends one octet of its words at a time."""

    def _write(self, connection):
        if connection.out:
            connection.out = connection.out[connection.sock.send(connection.out[:1]) :]
            self.counts["octets"] += 1


def trickle(target, running, channel):
    word = zmtp.frame(bytes(4096))
    return Tricklers(address(target, channel), CONNECTIONS, opening(channel), word, glued=True).run(running)


def case(attack, **options):
    def run(settings, report):
        with Arena(settings, report) as arena:
            arena.attack(settings.span(4, 20), (attack, options))
            arena.judge_joins()
            arena.judge_latency()
            arena.judge_memory()
            arena.judge_files()

    return run


CASES = [
    *(
        Case(f"empty-frames-{channel}", f"{CONNECTIONS} strangers send empty frames on {channel}", case(empty_frames, channel=channel))
        for channel in KINDS
    ),
    *(
        Case(f"half-messages-{channel}", f"{CONNECTIONS} strangers never finish 800 KB on {channel}", case(half_messages, channel=channel), channel == "submit")
        for channel in KINDS
    ),
    *(
        Case(f"glued-frames-{channel}", f"empty frames glued to READY on {channel}", case(empty_frames, channel=channel, glued=True), False)
        for channel in KINDS
    ),
    *(
        Case(f"endless-messages-{channel}", f"{CONNECTIONS} strangers send messages without an end on {channel}", case(endless_messages, channel=channel), False)
        for channel in KINDS
    ),
    *(
        Case(f"trickle-{channel}", f"{CONNECTIONS} strangers speak octet by octet on {channel}", case(trickle, channel=channel), False)
        for channel in KINDS
    ),
]
