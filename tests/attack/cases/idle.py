"""Strangers that take up room: they say nothing, half of a greeting, or one word of rubbish, and stay or come back."""

import zmtp
from arena import Arena, Case
from channels import KINDS, address, opening
from swarm import OTHERS, SAME, Swarm

FEW_FILES = 1024  # `ulimit -n`


def silent(target, running, channel, count=256, sources=SAME):
    """Connections that say nothing after the handshake."""
    return Swarm(address(target, channel), count, opening(channel), sources=sources).run(running)


class HalfOpen(Swarm):
    """Every other connection sends nothing, the others half of a greeting."""

    def first_words(self, connection):
        return self.opening if self.made % 2 else b""


def half_open(target, running, channel, count=600, sources=SAME):
    return HalfOpen(address(target, channel), count, zmtp.GREETING[:32], sources=sources).run(running)


def rubbish_word(target, running, channel, count=1500, sources=SAME):
    """Connections that say one word of rubbish, and stay."""
    word = zmtp.message(b"rubbish")
    return Swarm(address(target, channel), count, opening(channel), word, sources=sources).run(running)


def half_closed(target, running, channel, count=600, sources=SAME):
    """Connections that have closed their own direction, and keep the other."""
    return HalfClosed(address(target, channel), count, opening(channel), sources=sources).run(running)


class HalfClosed(Swarm):
    def _write(self, connection):
        super()._write(connection)
        if connection.is_up and not connection.out:
            connection.sock.shutdown(zmtp.socket.SHUT_WR)

    def _may_flood(self, connection):
        return False


def case(attack, channels=tuple(KINDS), sources=SAME, files=None, **options):
    def run(settings, report):
        with Arena(settings, report, open_files=files) as arena:
            attacks = [(attack, dict(options, channel=channel, sources=sources)) for channel in channels]
            arena.attack(settings.span(6, 15), *attacks)
            arena.judge_joins()
            arena.judge_latency()
            arena.judge_files()

    return run


ATTACKS = {
    "silent": (silent, "256 connections say nothing", {}),
    "silent-600": (silent, "600 connections say nothing", {"count": 600}),
    "half-open": (half_open, "600 connections send half a greeting or nothing, and come back", {}),
    "rubbish-word": (rubbish_word, "1,500 connections say one word of rubbish", {}),
    "half-closed": (half_closed, "600 connections close their own direction", {}),
}
SHORT = {"silent-control", "half-open-control", "half-open-all-few-files", "rubbish-word-all-few-files-elsewhere"}


def cases():
    for name, (attack, about, options) in ATTACKS.items():
        for channel in KINDS:
            yield f"{name}-{channel}", f"{about} on {channel}", case(attack, (channel,), **options)
        for suffix, more in ("", {}), ("-few-files", {"files": FEW_FILES}):
            for where, sources in ("", SAME), ("-elsewhere", OTHERS):
                place = f"from {'other addresses' if where else 'the same address'}, ulimit -n {more.get('files', 'as it is')}"
                run = case(attack, sources=sources, **options, **more)
                yield f"{name}-all{suffix}{where}", f"{about} on each port, {place}", run


CASES = [Case(name, about, run, name in SHORT) for name, about, run in cases()]
