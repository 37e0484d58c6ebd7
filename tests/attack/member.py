"""A session of a member over raw sockets: joins as an honest client does, then does what its owner wants."""

import os
import select
import struct
import time
from collections import namedtuple

import wire
import zmtp
from zmtp import Closed, Peer

# Where a host is: the addresses of its three sockets. `source` is the local address of those who connect.
Target = namedtuple("Target", "control broadcast submit cluster token source", defaults=(None,))

REPORT_EVERY = 100  # control messages, as the protocol wants
ASK_AGAIN = 0.02  # seconds between two questions for the barrier, doubled each time up to half a second
PAUSES = 0.02, 0.25  # seconds between two attempts to join, doubled each time


class Refused(ConnectionError):
    def __init__(self, code, reason):
        super().__init__(f"refused with code {code}: {reason.decode(errors='replace')}")
        self.code, self.reason = code, reason


class Member:
    """A member that is live once this returns. Takes the topics of `prefixes`; an empty one takes everything, none takes nothing.

    `pump` reads what has come, counts it, and reports; `ack` says that all of it is handled.
    """

    def __init__(self, target, id=None, prefixes=(b"",), timeout=2.0, **hello):
        self.target, self.id, self.prefixes = target, id or wire.fresh_id(), prefixes
        self.deadline, self.control, self.broadcast, self.submit = time.monotonic() + timeout, None, None, None
        self.received, self.ordered, self.at, self.live, self.is_subscribed = 0, 0, None, False, False
        try:
            self._greet(hello)
            self._attach()
        except BaseException:
            self.drop()
            raise

    def _greet(self, hello):
        self.control = self._connect(self.target.control, b"DEALER")
        self.control.send(wire.hello(self.target.cluster, self.id, self.target.token, **hello))
        while True:
            for (frame, *_) in self.control.next_message(self._left()):
                if frame[:3] == wire.REFUSED:
                    raise Refused(*wire.parse_refused(frame))
                if frame[:3] == wire.WELCOME:
                    self.welcome = wire.parse_welcome(frame)
                    self.epoch, self.received = self.welcome.epoch, 1
                    self.next_seq = self.welcome.last_origin_seq + 1
                    return

    def _attach(self):
        nonce = os.urandom(8)
        self.nonce, self.barrier = int.from_bytes(nonce, "big"), b"B" + nonce.hex().encode()
        takes_all = b"" in self.prefixes
        lanes = [b"W"] if takes_all else [b"I", *(b"T" + prefix for prefix in self.prefixes)]
        self.broadcast = self._connect(self.target.broadcast, b"SUB", self.welcome.session)
        self.broadcast.put(b"".join(map(zmtp.subscribe, (*lanes, self.barrier))))
        self.submit = self._connect(self.target.submit, b"PUSH")
        ask_at, pause = 0.0, ASK_AGAIN
        while not self.is_subscribed:
            if time.monotonic() >= ask_at:
                self.control.send(wire.subscribe(self.nonce, self.prefixes))
                ask_at, pause = time.monotonic() + pause, min(2 * pause, 0.5)
            self.pump(min(ask_at - time.monotonic(), self._left()))
        self.broadcast.put(zmtp.cancel(self.barrier))
        self.control.send(wire.LIVE + self.nonce.to_bytes(8, "big"))
        while not self.live:
            self.pump(self._left())
        self.ack()

    def _left(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("not joined in time")
        return left

    def _connect(self, address, kind, identity=b""):
        """Connects, and waits for the host's READY, as libraries do."""
        peer = Peer(address, kind, identity, self.target.source, timeout=self._left())
        try:
            while not peer.commands:
                peer.wait(self._left())
                peer.receive()
        except BaseException:
            peer.close()
            raise
        return peer

    def pump(self, timeout=0.0):
        """Reads what has come, after waiting for it; `Closed` when the session is over."""
        peers = [peer for peer in (self.control, self.broadcast) if peer]
        ready = zmtp.await_any(peers, select.POLLIN, timeout)
        if self.broadcast in ready:
            for lane, body in self.broadcast.receive():
                self._on_broadcast(lane, body)
        if self.control in ready:
            for (frame, *_) in self.control.receive():
                self._on_control(frame)
        for peer in (self.control, self.submit):
            if peer and peer.outbound:
                peer.flush()

    def _on_broadcast(self, lane, body):
        kind = body[:3]
        if lane == self.barrier and not self.is_subscribed:
            # No heartbeat stands for it: the host takes `live` for an answer to it.
            self.is_subscribed = True
            epoch, _, seq = wire.parse_barrier(body)
        elif kind == wire.HEARTBEAT:
            epoch, _, seq = wire.parse_barrier(body)
        elif kind == wire.WINDOW:
            epoch, _, seq = wire.window_end(body)
        else:
            return
        self.at, self.epoch = (epoch, seq), max(self.epoch, epoch)

    def _on_control(self, frame):
        kind = frame[:3]
        if kind == wire.RECEIVED:
            return
        self.received += 1
        if self.received % REPORT_EVERY == 0:
            self.control.send(wire.RECEIVED + self.received.to_bytes(8, "big"))
        if kind == wire.MEMBERSHIP:
            joined = int.from_bytes(frame[3:7], "big")
            self.live |= any(frame[at : at + 16] == self.id for at in range(7, 7 + 17 * joined, 17))
        elif kind == wire.ORDERED:
            # The last run says how far the member's own messages are.
            epoch, first, seq, count = struct.unpack_from(">QQQI", frame, len(frame) - 28)
            self.ordered = max(self.ordered, first + count - 1)
            if not self.prefixes and seq:
                self.at = epoch, seq + count - 1
        elif kind in (wire.CLOSING, wire.EVICTED):
            raise Closed(f"the host says {frame[:4].hex()}")

    def ack(self):
        """Says that all that has come is handled."""
        if self.at:
            self.control.send(wire.ack(*self.at, self.ordered))

    def send(self, topic, payload):
        """Submits one message."""
        self.submit_batch(wire.batch(self.next_seq, [wire.record(0, payload)], [topic]), 1)

    def submit_batch(self, body, count):
        self.next_seq += count
        self.submit.send(wire.SUBMIT + self.welcome.session, body)

    def leave(self):
        """Leaves in order, and closes."""
        try:
            self.control.send(wire.LEAVE)
            self.deadline = time.monotonic() + 1
            while True:
                self.pump(self._left())
        except (OSError, TimeoutError):
            pass
        self.drop()

    def drop(self):
        """Closes all connections without a word."""
        for peer in (self.control, self.broadcast, self.submit):
            if peer and peer.fileno() >= 0:
                peer.reset()


def join_patiently(target, limit, **options):
    """Joins, again and again until `limit` seconds have passed, as a client does whose host is busy. The member, and the seconds it took."""
    began, pause = time.monotonic(), PAUSES[0]
    while True:
        try:
            left = limit - (time.monotonic() - began)
            return Member(target, timeout=max(left, 0.01), **options), time.monotonic() - began
        except OSError as error:
            if time.monotonic() - began + pause > limit:
                raise TimeoutError(f"not joined within {limit:g} s: {error}") from error
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
