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


def half_messages(target, running, channel):
    """Each sends 800 KB of a message that would be larger, and then nothing."""
    return Swarm(address(target, channel), CONNECTIONS, opening(channel), UNFINISHED).run(running)


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


ATTACKS = {
    "empty-frames": (empty_frames, "send empty frames", {}),
    "half-messages": (half_messages, "never finish 800 KB", {}),
    "glued-frames": (empty_frames, "send empty frames glued to READY", {"glued": True}),
    "endless-messages": (endless_messages, "send messages without an end", {}),
    "trickle": (trickle, "speak octet by octet", {}),
}
SHORT = {"empty-frames-control", "empty-frames-broadcast", "empty-frames-submit", "half-messages-submit"}


def cases():
    for name, (attack, about, options) in ATTACKS.items():
        for channel in KINDS:
            yield f"{name}-{channel}", f"{CONNECTIONS} strangers {about} on {channel}", case(attack, channel=channel, **options)


CASES = [Case(name, about, run, name in SHORT) for name, about, run in cases()]
