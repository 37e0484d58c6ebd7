"""One identity, two hellos: the verdict on the first must not admit the second."""

import os
import threading
import time
from collections import Counter

import wire
import zmtp
from arena import Arena, Case
from member import Member
from swarm import Swarm
from zmtp import Peer

TOKEN, WRONG = b"the good token", b"a wrong token!"
TRIERS, AGAIN, PATIENCE = 12, 40, 7.0  # threads; attempts to take over an identity; seconds for an answer


def steal(target, running, tries=300):
    """Hello with the good token, hang up, hello with a wrong one under the same ROUTER identity. Counts answers to the second."""
    counts, left = Counter(), iter(range(tries))

    def work():
        for number in left:
            if not running():
                return
            counts[attempt(target, number)] += 1

    threads = [threading.Thread(target=work) for _ in range(TRIERS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return dict(counts)


def attempt(target, number):
    identity = b"i" + os.urandom(8)
    good = zmtp.message(wire.hello(target.cluster, wire.fresh_id(), TOKEN))
    wrong = zmtp.message(wire.hello(target.cluster, wire.fresh_id(), WRONG))
    try:
        first = Peer(target.control, b"DEALER", identity)
        while not first.commands:
            first.wait(PATIENCE)
            first.receive()
        # Nothing is unread, so the close does not reset: the host reads the hello, and then the end.
        first.put(good)
        if number % 3 == 1:
            time.sleep(0.0005)
        first.close()
    except OSError:
        return "not connected"
    for _ in range(AGAIN):
        second = None
        try:
            second = Peer(target.control, b"DEALER", identity, words=wrong)
            for (frame, *_) in second.next_message(PATIENCE):
                return {wire.WELCOME: "admitted", wire.REFUSED: "refused"}.get(frame[:3], "other")
            return "no answer"
        except OSError:
            time.sleep(0.001)  # the first still has the identity
        finally:
            if second:
                second.reset()
    return "identity in use"


def keep_busy(target, running):
    """A member that says as much as it can on control, in bursts."""
    while running():
        try:
            member = Member(target, prefixes=(), timeout=5)
        except OSError:
            continue
        try:
            words = zmtp.message(wire.ack(*member.at)) * 200
            until = time.monotonic() + 1.0
            while running():
                if time.monotonic() > until:
                    time.sleep(0.02)  # a verdict that had to wait now gets out
                    until = time.monotonic() + 0.3
                if not member.control.outbound:
                    member.control.put(words)
                member.pump(0.001)
        except OSError:
            pass
        finally:
            member.drop()
    return {}


def rubbish(target, running):
    opening = zmtp.GREETING + zmtp.ready(b"DEALER")
    return Swarm(target.control, 4, opening, flood=zmtp.message(b"rubbish")).run(running)


def run(settings, report, *busy):
    tries = 10_000 if settings.is_long else 300
    with Arena(settings, report, token=TOKEN) as arena:
        (counts, *_) = arena.attack(settings.span(12, 600), (steal, dict(tries=tries)), *busy)
        asked = sum(counts.get(answer, 0) for answer in ("admitted", "refused", "no answer"))
        measured = f"{counts.get('admitted', 0)} of {asked}" + "".join(f", {n} {what}" for what, n in counts.items())
        report.check("nobody admitted with a wrong token", measured, asked >= min(50, tries) and not counts.get("admitted"))
        arena.judge_joins()


def idle(settings, report):
    run(settings, report)


def flooded(settings, report):
    run(settings, report, (keep_busy, {}), (rubbish, {}))


CASES = [
    Case("verdict-idle", "two hellos under one identity", idle),
    Case("verdict-flooded", "two hellos under one identity, the host kept busy", flooded),
]
