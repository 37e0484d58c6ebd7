"""A host process under attack: starts it, reads its JSON lines, and samples its memory, descriptors and processor time."""

import json
import os
import re
import signal
import subprocess
import threading
import time

from member import Target

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_EVERY = 0.05  # seconds


def cpu_seconds(pid):
    """The processor time a process has used; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except OSError:
        return 0.0


def endpoint(address):
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


class Lines:
    """Reads the JSON lines of a process on a thread, and keeps all that are no messages."""

    def __init__(self, stream, on_message=None):
        self.events, self.on_message = [], on_message
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self.thread.start()

    def _read(self, stream):
        for line in stream:
            now = time.monotonic()
            if line.startswith(b'{"event":"message"'):
                if self.on_message:
                    self.on_message(now, line)
                continue
            event = json.loads(line)
            with self.changed:
                self.events.append((now, event))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def named(self, *names):
        with self.changed:
            return [event for _, event in self.events if event["event"] in names]

    def wait_for(self, name, timeout, count=1):
        """Waits for the `count`-th event of a name, and returns it."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.named(name)
            if len(found) >= count:
                return found[count - 1]
            with self.changed:
                left = deadline - time.monotonic()
                if left <= 0 or not self.thread.is_alive():
                    raise TimeoutError(f"no {name!r} within {timeout:g} s")
                self.changed.wait(min(left, 0.1))


class Host:
    """A `zincmq host` on loopback. `open_files` is its `ulimit -n`; None is the machine's."""

    def __init__(self, binary, cluster="default", token=b"", open_files=None):
        command = [binary, "host", "--json", "--bind", "tcp://127.0.0.1:0", "--cluster", cluster]
        self.cluster, self.token = cluster, token
        if open_files:
            command = ["sh", "-c", f'ulimit -n {open_files} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment()
        )
        self.errors = []
        threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True).start()
        self.lines = Lines(self.process.stdout)
        try:
            listening = self.lines.wait_for("listening", 10)
        except TimeoutError:
            self.process.kill()
            raise
        self.address = listening["address"]
        addresses = (endpoint(listening[name]) for name in ("address", "broadcast", "submit"))
        self.target = Target(*addresses, cluster.encode(), token)
        self.samples, self.sampling = [], threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    @property
    def pid(self):
        return self.process.pid

    def is_alive(self):
        return self.process.poll() is None

    def cpu(self):
        return cpu_seconds(self.pid)

    def rss(self):
        """Resident memory, in MiB; 0 when the process is gone."""
        try:
            with open(f"/proc/{self.pid}/status") as status:
                return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) * 1024 / MIB
        except (OSError, TypeError):
            return 0.0

    def files(self):
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0

    def most_files(self):
        with open(f"/proc/{self.pid}/limits") as limits:
            return int(re.search(r"Max open files\s+(\d+)", limits.read())[1])

    def _sample(self):
        while not self.sampling.wait(SAMPLE_EVERY) and self.is_alive():
            self.samples.append((time.monotonic(), self.rss(), self.files()))

    def peak(self, since, until=float("inf")):
        """The most resident memory in MiB, and the most descriptors, of the samples in a span of time."""
        span = [sample for sample in self.samples if since <= sample[0] <= until]
        return max((rss for _, rss, _ in span), default=self.rss()), max((files for *_, files in span), default=self.files())

    def environment(self):
        """With the cluster's token, and no other."""
        environment = {name: value for name, value in os.environ.items() if name != "ZINCMQ_TOKEN"}
        return environment | ({"ZINCMQ_TOKEN": self.token.decode()} if self.token else {})

    def stop(self):
        """Ends the host, by force when it takes too long. Its last words on standard error."""
        self.sampling.set()
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.lines.thread.join(2)
        return b"".join(self.errors).decode(errors="replace")
