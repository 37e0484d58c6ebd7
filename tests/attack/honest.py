"""The honest ones, who must be none the worse for an attack: a pair that goes on, and members that come and go."""

import json
import queue
import signal
import subprocess
import threading
import time

from cluster import Lines
from member import join_patiently

RATE = 200  # lines a second
TOPIC = "honest.pair"
HARM = {"reset", "evicted", "disconnected", "consumer_overrun", "lagged", "events_missed"}


def percentile(values, share):
    """Of an unsorted list; 0 where it is empty."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class Pair:
    """A `zincmq sub` and a `zincmq pub` that is fed lines at an even rate, each with its number and the time at which it was written."""

    def __init__(self, host, binary, proxy=None):
        self.host, self.proxy, self.arrivals, self.wrong, self.sent, self.origin = host, proxy, [], [], 0, None
        self.harm = HARM if proxy is None else HARM - {"disconnected"}
        join = [f"tcp://127.0.0.1:{proxy.port}" if proxy else host.address, "--cluster", host.cluster, "--timeout", "20"]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=host.environment())
        self.sub = subprocess.Popen([binary, "--json", "sub", *join, "--topic", TOPIC], stdin=subprocess.DEVNULL, **pipes)
        self.lines = Lines(self.sub.stdout, self._on_message)
        self.pub = None
        try:
            self.id = self.lines.wait_for("joined", 10)["id"]
            self.pub = subprocess.Popen([binary, "--json", "pub", *join, "--topic", TOPIC], stdin=subprocess.PIPE, **pipes)
            self.pub_lines, self.pub_errors = Lines(self.pub.stdout), []
            threading.Thread(target=lambda: self.pub_errors.extend(self.pub.stderr), daemon=True).start()
            threading.Thread(target=self.sub.stderr.read, daemon=True).start()
            self.stopping = threading.Event()
            self.feeder = threading.Thread(target=self._feed, daemon=True)
            self.feeder.start()
            self._wait_until(lambda: len(self.arrivals) >= 20, 10)
        except BaseException:
            self.kill()
            raise

    def _feed(self):
        at = time.monotonic()
        while not self.stopping.is_set():
            try:
                self.pub.stdin.write(b"%d %d\n" % (self.sent + 1, time.monotonic_ns()))
                self.pub.stdin.flush()
            except OSError:
                return
            self.sent += 1
            at += 1 / RATE
            time.sleep(max(0.0, at - time.monotonic()))

    def _on_message(self, now, line):
        message = json.loads(line)
        if message["topic"] != TOPIC:
            return
        number, written = map(int, message["payload"].split())
        self.origin = message["origin"]
        if number != len(self.arrivals) + 1 and len(self.wrong) < 5:
            self.wrong.append(f"{number} came as number {len(self.arrivals) + 1}")
        self.epoch = message["epoch"]
        self.arrivals.append((written / 1e9, now))

    def _wait_until(self, done, timeout):
        deadline = time.monotonic() + timeout
        while not done() and time.monotonic() < deadline:
            time.sleep(0.01)
        return done()

    def latencies(self, since, until):
        """In milliseconds, of what was written in a span of time and has arrived; what has not counts as until now."""
        arrivals, now = list(self.arrivals), time.monotonic()
        found = [(arrived - written) * 1e3 for written, arrived in arrivals if since <= written < until]
        missing = max(0, int((until - since) * RATE * 0.9) - len(found))
        return found + [(now - since) * 1e3] * missing

    def come_back(self, timeout=5):
        """Cuts the pair's connections. What is wrong when it has not come back in time, and gone on."""
        self.proxy.cut()
        try:
            self.lines.wait_for("connected", timeout)
        except TimeoutError:
            return f"sub has not come back within {timeout:g} s"
        upto = self.sent
        if not self._wait_until(lambda: len(self.arrivals) > upto + RATE // 10, timeout):
            return f"{self.sent - len(self.arrivals)} messages wait after {timeout:g} s"
        return ""

    def finish(self, timeout=10):
        """Ends the input and waits for the last line. What was wrong, as sentences: nothing for an unharmed pair."""
        wrong = []
        self.stopping.set()
        self.feeder.join(2)
        if self.feeder.is_alive():
            wrong.append("pub takes no more lines")
            self.pub.kill()
        try:
            self.pub.stdin.close()
        except OSError:
            pass
        try:
            if code := self.pub.wait(timeout):
                errors = b"".join(self.pub_errors).decode(errors="replace").strip()
                wrong.append(f"pub ended with code {code}: {errors[-200:]}")
        except subprocess.TimeoutExpired:
            wrong.append("pub does not end")
        self._wait_until(lambda: len(self.arrivals) >= self.sent, timeout / 2)
        if len(self.arrivals) != self.sent:
            wrong.append(f"{self.sent - len(self.arrivals)} of {self.sent} messages are missing")
        wrong += self.wrong
        if harm := self.lines.named(*self.harm):
            wrong.append(f"sub says {' and '.join(sorted({event['event'] for event in harm}))}")
        own = {self.id, self.origin}
        if evicted := [e for e in self.host.lines.named("evicted", "join_refused") if e["id"] in own]:
            wrong.append(f"the host says {evicted[0]['event']} of an honest member")
        if self.sub.poll() is not None:
            wrong.append(f"sub ended with code {self.sub.returncode}")
        self.kill()
        return wrong

    def kill(self):
        if self.proxy:
            self.proxy.close()
        for process in filter(None, (self.pub, self.sub)):
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


class Joiner:
    """Fresh honest members, one after the other: each joins, is live, and leaves. Every fourth is a `zincmq sub`, the others raw."""

    def __init__(self, host, binary, limit, pause=0.25):
        self.host, self.binary, self.limit, self.pause = host, binary, limit, pause
        self.times, self.failures, self.stopping = [], [], threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        count = 0
        while not self.stopping.is_set():
            count += 1
            began = time.monotonic()
            try:
                took = self._spawn() if count % 4 == 0 else self._raw()
                self.times.append((began, took))
            except Exception as error:  # whatever it was, this one has not joined
                self.failures.append((began, str(error) or repr(error)))
            self.stopping.wait(self.pause)

    def _raw(self):
        member, took = join_patiently(self.host.target, self.limit)
        member.leave()
        return took

    def _spawn(self):
        began = time.monotonic()
        command = [self.binary, "--json", "sub", self.host.address, "--cluster", self.host.cluster, "--timeout", "10"]
        pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        sub = subprocess.Popen([*command, "--topic", "none"], env=self.host.environment(), **pipes)
        try:
            said = queue.SimpleQueue()
            threading.Thread(target=lambda: said.put(sub.stdout.readline()), daemon=True).start()
            try:
                line = said.get(timeout=self.limit)
            except queue.Empty:
                raise TimeoutError(f"zincmq sub has not joined within {self.limit:g} s") from None
            if b'"joined"' not in line:
                raise ConnectionError(f"zincmq sub says {line!r}")
            return time.monotonic() - began
        finally:
            # In order, so that its session ends at once.
            sub.send_signal(signal.SIGINT)
            try:
                sub.wait(2)
            except subprocess.TimeoutExpired:
                sub.kill()
                sub.wait()

    def stop(self):
        self.stopping.set()
        self.thread.join(self.limit + 5)

    def between(self, since, until):
        """The times in seconds and the failures of joins that began in a span of time."""
        times = [took for began, took in self.times if since <= began < until]
        return times, [why for began, why in self.failures if since <= began < until]
