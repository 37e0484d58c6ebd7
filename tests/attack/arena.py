"""Where an attack meets a host: an honest pair and honest joins beside it, and the judgement of what became of them."""

import math
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
MEDIAN, TAIL = 50.0, 1000.0  # milliseconds: a p50 and a p99 that are a harm without a control run
SPARE_FILES = 8
SETTLE_QUEUES = 0.5  # seconds: what an attack has left in queues is not the control run's

Case = namedtuple("Case", "name about run is_short", defaults=(True,))
Fact = namedtuple("Fact", "wanted measured holds")


class Settings(namedtuple("Settings", "binary is_long seconds")):
    """What was asked for on the command line."""

    def span(self, short, long):
        """For how many seconds to attack."""
        return self.seconds or (long if self.is_long else short)


class Report(list):
    """What was wanted and what was measured."""

    def check(self, wanted, measured, holds):
        self.append(Fact(wanted, str(measured), bool(holds)))

    def holds(self):
        return all(fact.holds for fact in self)


class Arena:
    """A host with an honest pair, as a context. At its end the pair must have everything, and the host must live."""

    def __init__(self, settings, report, *, through_proxy=False, **host):
        self.settings, self.report = settings, report
        self.host = Host(settings.binary, **host)
        self.pair = self.joiner = None
        self.attackers, self.since = [], None
        try:
            proxy = Proxy(self.host.target.control) if through_proxy else None
            self.pair = Pair(self.host, settings.binary, proxy)
            self._calm()
        except BaseException:
            self.close()
            raise

    def _calm(self):
        """What the host takes with honest members alone."""
        began, cpu = time.monotonic(), self.host.cpu()
        self._begin_joins()
        time.sleep(0.7)
        self.joiner.stop()
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

    def _begin_joins(self):
        self.joiner = Joiner(self.host, self.settings.binary, JOIN_LIMIT)

    def attack(self, seconds, *attacks):
        """Runs attacks, each a function and its options, for so long or until all of them end. Honest members join meanwhile."""
        self.attackers = [Attacker(function, self.host.target, seconds, **options) for function, options in attacks]
        self.began, host_cpu = time.monotonic(), self.host.cpu()
        self.since = self.since or self.began
        cpus = [attacker.cpu() for attacker in self.attackers]
        self._begin_joins()
        while time.monotonic() < self.began + seconds and self.host.is_alive():
            if all(attacker.pipe.poll() for attacker in self.attackers):
                break
            time.sleep(0.02)
        self.ended = time.monotonic()
        span = self.ended - self.began
        self.cost = sum(attacker.cpu() - cpu for attacker, cpu in zip(self.attackers, cpus)) / span
        self.cost += max(0.0, (self.host.cpu() - host_cpu) / span - self.calm_cpu)
        latencies = self.pair.latencies(self.began, self.ended)
        self.p50, self.p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        counts = [attacker.stop() for attacker in self.attackers]
        self.attackers = []
        self.joiner.stop()
        self.joined = self.joiner.between(self.began, self.ended)
        return counts

    # Judgements. Each says what it wants.

    def judge_joins(self):
        times, failures = self.joined
        measured = f"{len(times)} joined, the slowest in {max(times, default=0):.2f} s"
        if failures:
            measured += f", {len(failures)} not: {failures[0]}"
        self.report.check(f"honest joins within {JOIN_LIMIT:g} s", measured, times and not failures and max(times) <= JOIN_LIMIT)

    def judge_latency(self):
        """Against what anybody would notice, whatever the machine does beside."""
        holds = self.p50 <= MEDIAN and self.p99 <= TAIL
        self.report.check(f"p50 and p99 at most {MEDIAN:g} and {TAIL:g} ms", f"{self.p50:.1f} and {self.p99:.1f} ms", holds)

    def judge_memory(self):
        peak = self.host.peak(self.since)[0]
        time.sleep(max(0.0, self.ended + SETTLE - time.monotonic()))
        after = self.host.rss()
        measured = f"{peak - self.before:.0f} MiB above {self.before:.0f}, then {after - self.before:.0f}"
        fits = peak <= self.before + PEAK and after <= self.before + AFTER
        self.report.check(f"memory grows by at most {PEAK} MiB, by {AFTER} after {SETTLE:g} s", measured, fits)

    def judge_files(self):
        peak, most = self.host.peak(self.since)[1], self.host.most_files()
        self.report.check("descriptors are left", f"{peak} of {most}", peak <= most - SPARE_FILES)

    def compare_latency(self, seconds, *attacks, floor=FLOOR):
        """Attacks, and compares with processes that burn as much processor time. Another round where one round says no."""
        for number in range(1, ROUNDS + 1):
            counts = self.attack(seconds, *attacks)
            p50, p99, cost, joined = self.p50, self.p99, min(self.cost, os.cpu_count()), self.joined
            time.sleep(SETTLE_QUEUES)
            burners = max(1, math.ceil(cost))
            self.attack(seconds, *[(burn, dict(duty=min(1.0, cost / burners)))] * burners)
            self.joined = joined
            # The median, too: beside other work on the machine the p99 of the control may be anything.
            holds = p50 <= max(RATIO * self.p50, floor) and p99 <= max(RATIO * self.p99, floor)
            if holds or not self.host.is_alive():
                break
        measured = f"{p50:.1f} and {p99:.1f} ms, {self.p50:.1f} and {self.p99:.1f} ms beside {cost:.1f} processors of other work (round {number})"
        self.report.check(f"p50 and p99 at most {RATIO} times those beside equal load, or {floor:g} ms", measured, holds)
        return counts
