"""Many connections to one port, driven by one epoll. One that is cut comes back at once."""

import select
from collections import Counter

import zmtp

SAME = ("127.0.0.1",)
OTHERS = tuple(f"127.0.0.{number}" for number in range(2, 18))
CHUNK, READ = 1 << 16, 1 << 16  # octets of one write and of one read
AT_ONCE = 64  # new connections in one pass
IN, OUT, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class Connection:
    __slots__ = ("sock", "out", "heard", "is_up", "wants")

    def __init__(self, sock):
        self.sock, self.out, self.heard, self.is_up, self.wants = sock, memoryview(b""), bytearray(), False, 0


class Swarm:
    """`count` connections. Each says `opening` at once, `word` once the host has said READY, and then `flood` for ever.

    With `glued` nothing waits for the host. Without `reads` nothing is read behind the host's READY. Subclasses say
    different words on each connection, and answer.
    """

    def __init__(self, address, count, opening, word=b"", flood=b"", *, glued=False, sources=SAME, reads=True):
        self.address, self.count, self.opening, self.word, self.glued = address, count, opening, word, glued
        self.flood = flood * max(1, CHUNK // len(flood)) if flood else b""
        self.sources, self.reads = sources, reads
        self.epoll, self.connections, self.counts = select.epoll(), {}, Counter()
        self.made = 0

    def first_words(self, connection):
        return self.opening

    def next_words(self, connection):
        return self.word

    def on_heard(self, connection, octets):
        """What came behind the host's READY. Whether to hang up."""
        return False

    def run(self, running):
        """Attacks while `running()`, then hangs up. What was counted."""
        try:
            while running():
                self._fill()
                for number, event in self.epoll.poll(0.02, 512):
                    self._serve(number, event)
        finally:
            self.counts["at the end"] = len(self.connections)
            for connection in self.connections.values():
                zmtp.reset(connection.sock)
            self.epoll.close()
        return dict(self.counts)

    def _fill(self):
        for _ in range(min(self.count - len(self.connections), AT_ONCE)):
            source = self.sources[self.made % len(self.sources)]
            self.made += 1
            sock = zmtp.new_socket(None if source == "127.0.0.1" else source)
            try:
                sock.connect(self.address)
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                self.counts["not connected"] += 1
                continue
            self.counts["connections"] += 1
            connection = Connection(sock)
            words = self.first_words(connection)
            connection.out = memoryview(words + self.next_words(connection) if self.glued else words)
            self.connections[sock.fileno()] = connection
            connection.wants = IN | OUT | select.EPOLLRDHUP
            self.epoll.register(sock, connection.wants)

    def _serve(self, number, event):
        connection = self.connections[number]
        try:
            if event & IN and self._read(connection) or event & GONE and not event & IN:
                return self._drop(number, "cut")
            if event & OUT:
                self._write(connection)
        except BlockingIOError:
            pass
        except OSError:
            return self._drop(number, "cut")
        self._want(connection)

    def _read(self, connection):
        """Whether it is over."""
        octets = connection.sock.recv(READ)
        if not octets:
            return True
        if connection.is_up:
            return self._hang_up(connection, octets)
        heard = connection.heard
        heard += octets
        if len(heard) < 66 or len(heard) < 66 + heard[65]:
            return False
        connection.is_up, connection.heard = True, bytearray()
        self.counts["up"] += 1
        if not self.glued:
            connection.out = memoryview(bytes(connection.out) + self.next_words(connection))
        rest = bytes(heard[66 + heard[65] :])
        return bool(rest) and self._hang_up(connection, rest)

    def _hang_up(self, connection, octets):
        if self.on_heard(connection, octets):
            self.counts["done"] += 1
            self.counts["cut"] -= 1  # not by the host
            return True
        return False

    def _write(self, connection):
        if not connection.out:
            if not self._may_flood(connection):
                return
            connection.out = memoryview(self.flood)
        sent = connection.sock.send(connection.out)
        connection.out = connection.out[sent:]
        self.counts["octets"] += sent

    def _may_flood(self, connection):
        return bool(self.flood) and (connection.is_up or self.glued)

    def _want(self, connection):
        wants = select.EPOLLRDHUP
        if self.reads or not connection.is_up:
            wants |= IN
        if connection.out or self._may_flood(connection):
            wants |= OUT
        if wants != connection.wants:
            connection.wants = wants
            self.epoll.modify(connection.sock, wants)

    def _drop(self, number, why):
        connection = self.connections.pop(number)
        self.counts[why] += 1
        zmtp.reset(connection.sock)
