"""Where an attack meets a host: an honest pair and honest joins beside it, and the judgement of what became of them."""

import os
import time
from collections import namedtuple

from attacker import Attacker, burn
from cluster import Host
from honest import Joiner, Pair, percentile
from proxy import Proxy

JOIN_LIMIT = 2.0  # seconds
# What a host may grow by, in MiB: its budget for all who are not authenticated is 32, and allocators keep some of what is freed.
PEAK, AFTER, SETTLE = 48, 24, 5.0  # and how long it has to give memory back, in seconds
RATIO, FLOOR, ROUNDS = 3, 5.0, 3  # of the p99 beside the attack to that of the control run; the least limit in milliseconds
IN_TIME = 1000.0  # milliseconds: the p99 that is a harm whatever the control run says
SPARE_FILES = 8

Settings = namedtuple("Settings", "binary is_long seconds")
Case = namedtuple("Case", "name about run is_short", defaults=(True,))
Fact = namedtuple("Fact", "wanted measured holds")


class Report(list):
    """What was wanted and what was measured."""

    def check(self, wanted, measured, holds):
        self.append(Fact(wanted, str(measured), bool(holds)))

    def holds(self):
        return all(fact.holds for fact in self)


class Arena:
    """A host with an honest pair, as a context. At its end the pair must have everything, and the host must live."""

    def __init__(self, settings, report, *flags, takes_all=False, join_from=None, through_proxy=False, **host):
        self.settings, self.report = settings, report
        self.host = Host(settings.binary, *flags, **host)
        self.pair = self.joiner = None
        self.attackers, self.join_source = [], join_from
        try:
            proxy = Proxy(self.host.target.control) if through_proxy else None
            self.pair = Pair(self.host, settings.binary, takes_all, proxy)
            self._calm()
        except BaseException:
            self.close()
            raise

    def _calm(self):
        """What the host takes with honest members alone."""
        began, cpu = time.monotonic(), self.host.cpu()
        with self.joins():
            time.sleep(0.7)
        ended = time.monotonic()
        self.calm_cpu = (self.host.cpu() - cpu) / (ended - began)
        self.before = self.host.peak(began)[0]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                wrong = self.pair.finish() if self.host.is_alive() else []
                self.report.check("honest pair has all, in order, and stays", "; ".join(wrong) or f"{self.pair.sent} messages", not wrong)
                self.report.check("the host lives", f"code {self.host.process.poll()}", self.host.is_alive())
        finally:
            errors = self.close()
        if kind is None:
            self.report.check("no panic", errors.strip().splitlines()[-1:] or "none", "panicked" not in errors)

    def close(self):
        for attacker in self.attackers:
            attacker.process.kill()
        if self.joiner:
            self.joiner.stopping.set()
        if self.pair:
            self.pair.kill()
        return self.host.stop()

    def joins(self):
        return Joins(self)

    def attack(self, seconds, *attacks, joins=True, until=None):
        """Runs attacks, each a function and its options, for so long, or until all of them end or `until()`. Honest members join meanwhile."""
        seconds = self.settings.seconds or seconds
        self.attackers = [Attacker(function, self.host.target, seconds, **options) for function, options in attacks]
        self.began, host_cpu = time.monotonic(), self.host.cpu()
        cpus = [attacker.cpu() for attacker in self.attackers]
        with self.joins() if joins else Nothing() as joined:
            while time.monotonic() < self.began + seconds and self.host.is_alive():
                if all(attacker.pipe.poll() for attacker in self.attackers) or until and until():
                    break
                time.sleep(0.02)
            self.ended = time.monotonic()
            span = self.ended - self.began
            self.host_cpu = (self.host.cpu() - host_cpu) / span
            self.cost = sum(attacker.cpu() - cpu for attacker, cpu in zip(self.attackers, cpus)) / span
            self.cost += max(0.0, self.host_cpu - self.calm_cpu)
            self.p50 = percentile(self.pair.latencies(self.began, self.ended), 0.5)
            self.p99 = percentile(self.pair.latencies(self.began, self.ended), 0.99)
            counts = [attacker.stop() for attacker in self.attackers]
        self.attackers = []
        if joins:
            self.joined = joined.joiner.between(self.began, self.ended)
        return counts

    # Judgements. Each says what it wants.

    def judge_joins(self):
        times, failures = self.joined
        measured = f"{len(times)} joined, the slowest in {max(times, default=0):.2f} s"
        if failures:
            measured += f", {len(failures)} not: {failures[0]}"
        self.report.check(f"honest joins within {JOIN_LIMIT:g} s", measured, times and not failures and max(times) <= JOIN_LIMIT)

    def judge_delivery(self):
        self.report.check(f"p99 at most {IN_TIME:g} ms", f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms", self.p99 <= IN_TIME)

    def judge_memory(self):
        peak = self.host.peak(self.began)[0]
        time.sleep(max(0.0, self.ended + SETTLE - time.monotonic()))
        after = self.host.rss()
        measured = f"{peak - self.before:.0f} MiB above {self.before:.0f}, then {after - self.before:.0f}"
        fits = peak <= self.before + PEAK and after <= self.before + AFTER
        self.report.check(f"memory grows by at most {PEAK} MiB, by {AFTER} after {SETTLE:g} s", measured, fits)

    def judge_files(self):
        peak, most = self.host.peak(self.began)[1], self.host.most_files()
        self.report.check("descriptors are left", f"{peak} of {most}", peak <= most - SPARE_FILES)

    def compare_latency(self, seconds, *attacks):
        """The attack's latency against that beside processes that burn as much processor time. Another round where one round says no."""
        for attempt in range(ROUNDS):
            counts = self.attack(seconds, *attacks)
            beside, cost = (self.p50, self.p99), self.cost
            time.sleep(0.5)
            self._control(seconds, cost)
            limit = max(RATIO * self.p99, FLOOR)
            holds = beside[1] <= limit
            if holds or not self.host.is_alive():
                break
        measured = f"p50 {beside[0]:.1f} ms, p99 {beside[1]:.1f} ms; limit {limit:.1f} ms, the control's p99 {self.p99:.1f} ms at {cost:.1f} processors"
        self.report.check(f"p99 at most {RATIO} times that beside equal load", f"{measured}, round {attempt + 1}", holds)
        return counts

    def _control(self, seconds, cost):
        cost = min(cost, os.cpu_count())
        burners = max(1, round(cost + 0.49))
        joined = self.joined
        self.attack(seconds, *[(burn, dict(duty=min(1.0, cost / burners)))] * burners)
        self.joined = joined


class Joins:
    """Honest joins, as a context."""

    def __init__(self, arena):
        self.arena = arena

    def __enter__(self):
        arena = self.arena
        target = arena.host.target
        self.joiner = arena.joiner = Joiner(arena.host, arena.settings.binary, JOIN_LIMIT, target=target._replace(source=arena.join_source))
        return self

    def __exit__(self, *_):
        self.joiner.stop()


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
