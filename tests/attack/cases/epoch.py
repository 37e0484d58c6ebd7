"""Joiners that name epochs and incarnations of their own making. Honest members must be able to come back, to the same reign."""

import time

from arena import Arena, Case, JOIN_LIMIT
from member import Member, join_patiently

SEVENTY_YEARS = 1 << 41  # milliseconds
# How far ahead of its own clock a host may be: what it can vouch for itself, and some slack for the order of events.
AHEAD = 60_000  # milliseconds
FOREIGN = 0x5EED


def claims(epoch, incarnation):
    """Epochs and incarnations to name."""
    hour, day = 3_600_000, 86_400_000
    far = (SEVENTY_YEARS - 1, SEVENTY_YEARS, SEVENTY_YEARS + 1, SEVENTY_YEARS // 2, 100 * day, day, hour, 1, 0)
    named = [epoch + ahead for ahead in far] + [1 << 62, (1 << 62) - 1, (1 << 64) - 1, 1]
    return [(value, of) for value in named for of in (FOREIGN, incarnation, 0)]


def say(target, epoch, incarnation):
    """Joins with that, goes live, and leaves. Whether it was admitted: it need not be."""
    try:
        member = Member(target, epoch=epoch, incarnation=incarnation, timeout=1.0)
    except OSError:
        return False
    member.drop()
    return True


class Honest:
    """A member that loses its connections and comes back, with all that it knows."""

    def __init__(self, target):
        self.target = target
        self.member, _ = join_patiently(target, JOIN_LIMIT)
        self.epoch = self.member.epoch

    def come_back(self):
        old = self.member
        try:
            old.pump()
        except OSError:
            pass
        old.drop()
        known = dict(resume=old.welcome.session, incarnation=old.welcome.incarnation, epoch=old.epoch, next_seq=old.next_seq)
        self.member, _ = join_patiently(self.target, JOIN_LIMIT, id=old.id, **known)
        self.epoch = max(self.epoch, self.member.epoch)
        # It goes on: what it sends gets a place.
        self.member.send(b"epoch", b"still here")
        deadline = time.monotonic() + JOIN_LIMIT
        while self.member.ordered < self.member.next_seq - 1:
            if time.monotonic() > deadline:
                raise TimeoutError("what it sends gets no place")
            self.member.pump(0.1)
        self.epoch = max(self.epoch, self.member.epoch)


def ahead(epoch):
    return epoch - time.time() * 1000


def run(settings, report, attack):
    """`attack(target, epoch, incarnation, back)` has an honest member come back by `back()`: the epoch it sees, None where it is shut out."""
    with Arena(settings, report, through_proxy=True) as arena:
        honest, lost = Honest(arena.host.target), []
        first, welcome = honest.epoch, honest.member.welcome

        def back():
            try:
                honest.come_back()
                return honest.epoch
            except OSError as error:
                lost.append(str(error))
                return None

        attack(arena.host.target, first, welcome.incarnation, back)
        if not lost:
            back()
        report.check("a member comes back within 2 s and goes on", lost[0] if lost else "each time", not lost)
        measured = f"{ahead(honest.epoch) / 1000:.0f} s ahead, {honest.epoch - first} above the first"
        report.check("the epoch of others stays within the host's own clock", measured, ahead(honest.epoch) <= AHEAD)
        honest.member.drop()
        wrong = arena.pair.come_back()
        report.check("the pair comes back, and sees the same reign", wrong or "it does", not wrong and ahead(arena.pair.epoch) <= AHEAD)


def one_after_the_other(target, epoch, incarnation, back):
    for value, of in claims(epoch, incarnation):
        say(target, value, of)
        if back() is None:
            return


def two_in_turn(target, epoch, incarnation, back):
    """Each names what is just within the slack of what the other has brought about."""
    for _ in range(10):
        for reach in (SEVENTY_YEARS - 1, SEVENTY_YEARS // 3):
            say(target, epoch + reach, FOREIGN + reach % 7)
            seen = back()
            if seen is None:
                return
            epoch = max(epoch, seen)


def loop(target, epoch, incarnation, back):
    for number in range(150):
        say(target, epoch + (1 << number % 42), FOREIGN + number)
        if number % 10 == 0:
            seen = back()
            if seen is None:
                return
            epoch = max(epoch, seen)


def case(attack):
    return lambda settings, report: run(settings, report, attack)


CASES = [
    Case("epoch-values", "joiners name epochs and incarnations of all kinds", case(one_after_the_other)),
    Case("epoch-in-turn", "two joiners lift each other", case(two_in_turn)),
    Case("epoch-loop", "one joiner again and again, further each time", case(loop)),
]
