"""Whatever else those can do who are nobody's members: rubbish, PINGs without a listener, guessed tokens, doors opened and shut."""

import os
import time

import wire
import zmtp
from arena import Arena, Case
from channels import KINDS, address, opening
from member import Member
from swarm import OTHERS, Swarm
from zmtp import Peer

SOON = 1.5  # seconds: when one that does not speak the protocol is cut
DEADLINE = 8.0  # seconds: when one that says nothing is cut (the handshake has 5)
NOTICED = 50.0  # milliseconds: below it a p99 harms nobody whose machine is as busy as this
CROWD = 14_000  # more connections than a host takes by default


def pings(target, running, channel):
    """Asks for signs of life as fast as it can, and reads none of them."""
    flood = zmtp.command(b"PING", b"\0\0" + b"c" * 16)
    return Swarm(address(target, channel), 50, opening(channel), flood=flood, reads=False).run(running)


def commands(target, running, channel):
    """Commands that nobody knows, as fast as it can."""
    flood = zmtp.command(b"NOBODY", b"x" * 64)
    return Swarm(address(target, channel), 50, opening(channel), flood=flood).run(running)


class Doors(Swarm):
    """Each hangs up as soon as the handshake is done."""

    def _serve(self, number, event):
        super()._serve(number, event)
        if number in self.connections and self.connections[number].is_up:
            self._drop(number, "done")


def doors(target, running, channel, sources=OTHERS):
    return Doors(address(target, channel), 32, opening(channel), sources=sources).run(running)


def never_read(target, running):
    """Plain subscribers to everything that read nothing."""
    words = b"".join(map(zmtp.subscribe, (b"", b"W", b"I", b"T", b"B")))
    return Swarm(target.broadcast, 200, opening("broadcast"), words, reads=False).run(running)


def publish(target, running, size=60_000, every=0.01):
    """A member that has much to say, at an even rate."""
    while running():
        try:
            member = Member(target, prefixes=(), timeout=5)
        except OSError:
            continue
        try:
            while running():
                if not member.submit.outbound:
                    member.send(b"much", bytes(size))
                member.pump(every)
                member.ack()
        except OSError:
            pass
        finally:
            member.drop()
    return {}


def guessed_tokens(target, running):
    """Submits for sessions that it does not have."""
    body = wire.batch(1, [wire.record(0, b"guess")], [b"honest.pair"])
    flood = b"".join(zmtp.message(wire.SUBMIT + b"\1" + os.urandom(15), body) for _ in range(600))
    return Swarm(target.submit, 20, opening("submit"), flood=flood).run(running)


class Impostors(Swarm):
    """Subscribers that name a session of another's, or nearly."""

    def __init__(self, target, session):
        super().__init__(target.broadcast, 32, b"", zmtp.subscribe(b"W"))
        self.session = session

    def first_words(self, connection):
        names = self.session, self.session[:15], self.session + b"x", b"\1" + os.urandom(15)
        return opening("broadcast", names[self.made % len(names)])


def impostors(target, running):
    """One of them has a session, whose token it gives to all others; the honest ones' tokens are theirs alone."""
    member = Member(target, timeout=10)
    try:
        return Impostors(target, member.welcome.session).run(running)
    finally:
        member.drop()


def crowd(target, running):
    return Swarm(target.control, CROWD, opening("control"), zmtp.message(b"rubbish"), sources=OTHERS).run(running)


def case(*attacks):
    def run(settings, report):
        with Arena(settings, report) as arena:
            arena.attack(settings.span(4, 15), *attacks)
            arena.judge_joins()
            arena.judge_latency()
            arena.judge_files()

    return run


def flood(*attacks):
    def run(settings, report):
        with Arena(settings, report) as arena:
            arena.compare_latency(settings.span(3, 10), *attacks, floor=NOTICED)
            arena.judge_joins()
            arena.judge_memory()

    return run


def left_open(target, words, timeout):
    """Which of (channel, frames) leave their connections open for so long."""
    peers = [(Peer(address(target, channel), KINDS[channel], words=said), channel, said) for channel, said in words]
    deadline, left = time.monotonic() + timeout, []
    for peer, channel, said in peers:
        try:
            while (rest := deadline - time.monotonic()) > 0:
                peer.next_message(rest)
            peer.receive()
            left.append(f"{channel} {said[:12]!r}")
        except OSError:
            pass
        finally:
            peer.reset()
    return left


def run_manners(settings, report):
    """Strangers that do not speak the protocol are cut at once; those that say nothing of use, at a deadline."""
    whole = wire.hello(b"default", wire.fresh_id())
    batch = wire.batch(1, [wire.record(0)], [b"t"])
    rubbish = {
        "control": [(b"",), (b"rubbish",), (b"", b""), (whole, whole), (b"Z\2" + whole[2:],), (whole[:40],)],
        "submit": [(b"",), (b"rubbish",), (b"", b""), (batch,), (b"Z\1\x10", batch), (wire.SUBMIT + bytes(16), batch)],
    }
    useless = [(), (wire.ack(1, 1),), (wire.LIVE + bytes(8),), (wire.subscribe(1, (b"",)),)]
    with Arena(settings, report) as arena:
        words = [(channel, zmtp.message(*frames)) for channel, all in rubbish.items() for frames in all]
        left = left_open(arena.host.target, words, SOON)
        measured = f"{len(words) - len(left)} of {len(words)}" + (f", not {left[0]}" if left else "")
        report.check(f"rubbish on control and submit ends a connection within {SOON:g} s", measured, not left)
        words = [("control", zmtp.message(*frames) if frames else b"") for frames in useless]
        left = left_open(arena.host.target, words, DEADLINE)
        measured = f"{len(words) - len(left)} of {len(words)}" + (f", not {left[0]}" if left else "")
        report.check(f"one that says no hello on control is cut within {DEADLINE:g} s", measured, not left)


def each_channel(name, about, make, short=()):
    return [Case(f"{name}-{channel}", f"{about} on {channel}", make(channel), channel in short) for channel in KINDS]


CASES = [
    Case("manners", "what becomes of single strangers that do not speak the protocol", run_manners),
    *each_channel("pings", "PINGs whose answers are not read", lambda channel: flood((pings, {"channel": channel})), {"submit"}),
    *each_channel("commands", "unknown commands", lambda channel: flood((commands, {"channel": channel}))),
    *each_channel("doors", "handshakes as fast as they go", lambda channel: case((doors, {"channel": channel}))),
    Case("doors-all", "handshakes on each port as fast as they go", case(*[(doors, {"channel": channel}) for channel in KINDS])),
    Case("never-read", "plain subscribers that read nothing, beside 6 MB published a second", case((never_read, {}), (publish, {})), False),
    Case("guessed-tokens", "submits for sessions that are not there", case((guessed_tokens, {}))),
    Case("impostors", "subscribers under identities of others' sessions", case((impostors, {})), False),
    Case("crowd", f"{CROWD} connections that say one word of rubbish", case((crowd, {})), False),
]
