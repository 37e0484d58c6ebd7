"""Subscriptions: hoarded, made and ended without pause, long ones, and many topics for them."""

import struct
import time

import wire
import zmtp
from arena import Arena, Case
from channels import opening
from member import Member
from swarm import Swarm

UNREPORTED = 900  # control messages that an honest member may have under way, with some room
LONG = 250  # octets of a prefix
BATCHES = 600  # that may be without a place
ACK_EVERY = 0.025  # seconds


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
    return Swarm(target.broadcast, 4, opening("broadcast"), flood=flood, reads=True).run(running)


class Insider(Member):
    """A member that stays one: it reads, acknowledges, and has no more under way than the protocol allows."""

    def __init__(self, target, **options):
        self.said, self.reported, self.acked_at = 0, 0, 0.0
        super().__init__(target, timeout=10, **options)

    def _on_control(self, frame):
        if frame[:3] == wire.RECEIVED:
            self.reported = int.from_bytes(frame[3:11], "big")
        super()._on_control(frame)

    def _greet(self, hello):
        super()._greet(hello)
        send = self.control.send
        self.said = 1

        def counted(frame):
            self.said += frame[:3] != wire.RECEIVED
            send(frame)

        self.control.send = counted

    def room(self):
        return UNREPORTED - (self.said - self.reported)

    def keep_up(self, timeout=0.0):
        self.pump(timeout)
        if time.monotonic() > self.acked_at + ACK_EVERY and self.room() > -50:
            self.acked_at = time.monotonic()
            self.ack()


def stay(target, running, work, **options):
    """Does `work(member, count)` as often as it can, and joins again when its session ends."""
    count, sessions = 0, 0
    while running():
        try:
            member = Insider(target, **options)
        except OSError:
            time.sleep(0.05)
            continue
        sessions += 1
        try:
            while running():
                member.keep_up(0.0 if work(member, count) else 0.002)
                count += 1
        except OSError:
            pass
        finally:
            member.drop()
    return {"turns": count, "sessions": sessions}


def member_subscribe(target, running):
    """A member that sends subscribe as fast as the connection takes it, with a fresh nonce and another filter each time."""
    words = (wire.subscribe(nonce, ((b"",), (b"a", b"b"), ())[nonce % 3]) for nonce in range(1, 3000))
    block = b"".join(map(zmtp.message, words))

    def work(member, count):
        if len(member.control.outbound) > len(block):
            return False
        member.control.put(block)
        return True

    return stay(target, running, work)


def member_subscribe_politely(target, running):
    """The same, with no more unreported than the protocol allows."""

    def work(member, count):
        may = min(member.room(), 64)
        if may <= 0 or len(member.control.outbound) > 1 << 16:
            return False
        for number in range(may):
            member.control.send(wire.subscribe(count * 64 + number + 1, (b"",)))
        return True

    return stay(target, running, work)


def long_names(count=wire.MAX_PREFIXES):
    return [b"x" * (LONG - 6) + b"%06d" % number for number in range(count)]


def long_prefixes(target, running, changes=True):
    """A member that takes a thousand long prefixes, and others with each word."""
    prefixes = tuple(long_names())
    body = struct.pack(">H", len(prefixes)) + b"".join(map(wire.text, prefixes))

    def work(member, count):
        if not changes or member.room() <= 0 or len(member.control.outbound) > 1 << 20:
            return False
        member.control.send(wire.SUBSCRIBE + struct.pack(">Q", count + 1) + body)
        return True

    return stay(target, running, work, prefixes=prefixes)


def many_topics(target, running, length=LONG):
    """A member that submits batches with a topic for each record, as fast as it is let."""
    topics = [name[-length:] for name in long_names(wire.MAX_RECORDS)]
    records = [wire.record(number) for number in range(wire.MAX_RECORDS)]
    body = wire.batch(0, records, topics)[8:]

    def work(member, count):
        waiting = member.next_seq - 1 - member.ordered
        if len(member.submit.outbound) > 1 << 20 or waiting > BATCHES * wire.MAX_RECORDS:
            member.submit.flush()
            return False
        member.submit_batch(struct.pack(">Q", member.next_seq) + body, len(records))
        return True

    return stay(target, running, work, prefixes=())


def run_hoard(settings, report):
    with Arena(settings, report) as arena:
        arena.attack(10 if settings.is_long else 4, (hoard, {}))
        arena.judge_joins()
        arena.judge_delivery()
        arena.judge_memory()


def latency(*attacks):
    def run(settings, report):
        with Arena(settings, report) as arena:
            arena.compare_latency(10 if settings.is_long else 3, *attacks)
            arena.judge_joins()

    return run


static = (long_prefixes, {"changes": False})
CASES = [
    Case("subscription-hoard", "200 plain subscribers to 2,050 prefixes of 122 octets each", run_hoard),
    Case("subscription-churn", "4 plain subscribers change their minds as fast as they can", latency((churn, {}))),
    Case("member-subscribe-flood", "3 members send subscribe as fast as they can", latency(*[(member_subscribe, {})] * 3)),
    Case("member-subscribe-polite", "3 members send subscribe as fast as flow control lets them", latency(*[(member_subscribe_politely, {})] * 3), False),
    Case("long-prefixes", "a member changes 1,024 long prefixes as fast as it can", latency((long_prefixes, {}))),
    Case("many-topics", "a member submits 1,024 topics a batch, another takes long prefixes", latency((many_topics, {}), static)),
    Case("many-short-topics", "a member submits 1,024 short topics a batch", latency((many_topics, {"length": 6})), False),
    Case("long-prefixes-static", "a member takes 1,024 long prefixes", latency(static), False),
]
