"""Hellos: with ever new ids, with wrong tokens, for other clusters, and hung up on at once."""

import wire
import zmtp
from arena import Arena, Case, JOIN_LIMIT
from channels import opening
from member import Member, Refused, join_patiently
from swarm import OTHERS, Swarm

TOKEN, SECRET_NAME = b"the good token", "a-name-that-is-nobody's-business"


class Hellos(Swarm):
    """Each connection says one hello under a fresh id, and hangs up when it has an answer: `hello()` gives its words."""

    def __init__(self, target, hello, count=96, **options):
        super().__init__(target.control, count, opening("control"), glued=True, **options)
        self.hello = hello

    def next_words(self, connection):
        return zmtp.message(self.hello())

    def on_heard(self, connection, octets):
        connection.heard += octets
        at = 2 if connection.heard[:1] == b"\0" else 9
        kind = bytes(connection.heard[at : at + 3])
        if len(kind) < 3:
            return False
        self.counts[{wire.WELCOME: "welcome", wire.REFUSED: "refused"}.get(kind, "other")] += 1
        return True


def new_ids(target, running, most):
    """Joins under a new id, and leaves before it is live, as fast as it can."""
    swarm = Hellos(target, lambda: wire.hello(target.cluster, wire.fresh_id(), target.token), sources=OTHERS)
    return swarm.run(lambda: running() and swarm.counts["welcome"] < most)


def wrong_tokens(target, running):
    return Hellos(target, lambda: wire.hello(target.cluster, wire.fresh_id(), b"wrong"), sources=OTHERS).run(running)


class HangUps(Hellos):
    """Each hangs up as soon as its hello is with the system."""

    def _write(self, connection):
        super()._write(connection)
        if not connection.out:
            raise OSError("all is said")


def hang_up(target, running):
    return HangUps(target, lambda: wire.hello(target.cluster, wire.fresh_id(), target.token), sources=OTHERS).run(running)


class HalfJoined(Hellos):
    """Each has a session, and does not go live."""

    def on_heard(self, connection, octets):
        self.counts["answers"] += 1
        return False


def half_joined(target, running, count=11_000):
    """As many sessions as a host takes members by default, and some: none of them goes live."""
    return HalfJoined(target, lambda: wire.hello(target.cluster, wire.fresh_id(), target.token), count, sources=OTHERS).run(running)


def run_new_ids(settings, report):
    most = 100_000 if settings.is_long else 4_000
    with Arena(settings, report) as arena:
        (counts,) = arena.attack(settings.span(10, 90), (new_ids, dict(most=most)))
        arena.judge_joins()
        try:
            member, took = join_patiently(arena.host.target, JOIN_LIMIT)
            member.leave()
            measured, holds = f"in {took:.2f} s, behind {counts.get('welcome', 0)} others", True
        except OSError as error:
            measured, holds = f"{error}, behind {counts.get('welcome', 0)} others", False
        report.check("a newcomer is admitted afterwards", measured, holds)
        arena.judge_latency()


def case(attack, **host):
    def run(settings, report):
        with Arena(settings, report, **host) as arena:
            arena.attack(settings.span(4, 10), (attack, {}))
            arena.judge_joins()
            arena.judge_latency()
            arena.judge_files()

    return run


def run_cluster_name(settings, report):
    with Arena(settings, report, cluster=SECRET_NAME, token=TOKEN) as arena:
        told = []
        for token in TOKEN, b"wrong", b"":
            for name in b"default", b"x", SECRET_NAME[:-1].encode(), SECRET_NAME.upper().encode():
                try:
                    Member(arena.host.target._replace(cluster=name, token=token)).drop()
                    told.append((0, b"admitted"))
                except Refused as refused:
                    told.append((refused.code, refused.reason))
        # A name that a hello tells may come back to it, a part of the real one, too.
        leaks = [reason for _, reason in told if SECRET_NAME.encode() in reason]
        measured = f"{len(leaks)} of {len(told)} answers" + (f": {leaks[0].decode()}" if leaks else "")
        report.check("the real name is told to no one", measured, not leaks)
        report.check("hellos for other clusters are refused", f"{len(told)} answers", len(told) == 12 and all(code for code, _ in told))


CASES = [
    Case("hello-flood", "100,000 ids (short: 4,000) join and leave before they are live", run_new_ids),
    Case("hello-refused", "hellos with wrong tokens as fast as they go", case(wrong_tokens, token=TOKEN)),
    Case("hello-hang-up", "hellos that hang up at once", case(hang_up)),
    Case("half-joined", "11,000 sessions that do not go live", case(half_joined), False),
    Case("cluster-name", "hellos for other clusters", run_cluster_name),
]
