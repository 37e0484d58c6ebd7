"""Members that ask for more than is good for others, as fast as they can. They answer what flow control asks for, so as to stay members."""

import struct
import time

import wire
import zmtp
from arena import Arena, Case
from member import Member

UNREPORTED = 900  # control messages that a member may have under way, with some room for acks
LONG = 250  # octets of a prefix
BATCHES = 600  # that may be without a place
ACK_EVERY = 0.025  # seconds


class Insider(Member):
    """A member that stays one: it reads, reports and acknowledges. `room` is how much more it may say by the protocol."""

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
    filters = (b"",), tuple(b"p%d" % number for number in range(256)), ()
    words = (wire.subscribe(nonce, filters[nonce % 3]) for nonce in range(1, 1000))
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
    """A member that submits batches with a topic for each record, as large as they may be, as fast as it is let."""
    count = min(wire.MAX_RECORDS, wire.TARGET_BYTES // (length + 16))
    topics = [name[-length:] for name in long_names(count)]
    records = [wire.record(number) for number in range(count)]
    body = wire.batch(0, records, topics)[8:]

    def work(member, count):
        waiting = member.next_seq - 1 - member.ordered
        if len(member.submit.outbound) > 1 << 20 or waiting > BATCHES * len(records):
            member.submit.flush()
            return False
        member.submit_batch(struct.pack(">Q", member.next_seq) + body, len(records))
        return True

    return stay(target, running, work, prefixes=())


def repairs(target, running):
    """A member that wants all windows again, as fast as the connection takes it."""

    def work(member, count):
        if len(member.control.outbound) > 1 << 16:
            return False
        member.control.put(zmtp.message(wire.REPAIR + struct.pack(">QQ", 1, 1024)) * 500)
        return True

    return stay(target, running, work)


def acks(target, running):
    """A member that says again and again that it has handled everything."""

    def work(member, count):
        if not member.at or len(member.control.outbound) > 1 << 16:
            return False
        member.control.put(zmtp.message(wire.ack(*member.at, member.ordered)) * 500)
        return True

    return stay(target, running, work)


def malformed(target, running):
    """A member that talks rubbish on control and on submit."""

    def work(member, count):
        if len(member.control.outbound) + len(member.submit.outbound) > 1 << 16:
            return False
        member.control.put(zmtp.message(b"Z\1\x21rubbish") * 500)
        member.submit.put(zmtp.message(wire.SUBMIT + member.welcome.session, b"rubbish") * 500)
        return True

    return stay(target, running, work)


def case(*attacks):
    def run(settings, report):
        with Arena(settings, report) as arena:
            arena.compare_latency(settings.span(3, 10), *attacks)
            arena.judge_joins()

    return run


STATIC = (long_prefixes, {"changes": False})
CASES = [
    Case("member-subscribe-flood", "3 members send subscribe as fast as they can", case(*[(member_subscribe, {})] * 3)),
    Case("member-subscribe-polite", "the same, with no more under way than is allowed", case(*[(member_subscribe_politely, {})] * 3), False),
    Case("long-prefixes", "a member changes 1,024 long prefixes as fast as it can", case((long_prefixes, {}))),
    Case("long-prefixes-static", "a member takes 1,024 long prefixes", case(STATIC), False),
    Case("many-topics", "a member submits a topic for each record, another takes long prefixes", case((many_topics, {}), STATIC)),
    Case("many-short-topics", "a member submits a short topic for each record", case((many_topics, {"length": 6})), False),
    Case("member-repairs", "a member wants windows again as fast as it can", case((repairs, {})), False),
    Case("member-acks", "a member acknowledges as fast as it can", case((acks, {})), False),
    Case("member-malformed", "a member talks rubbish as fast as it can", case((malformed, {})), False),
]
