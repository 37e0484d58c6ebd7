#!/usr/bin/env python3
"""A zincmq client in Python: joins an open cluster, receives, and sends. Needs pyzmq (pip install pyzmq), and follows docs/protocol.md.

    zincmq_client.py ADDR [--send TOPIC TEXT]... [--count N]

Prints one JSON object per line: `joined`, then `message` for what others send, `ordered` for each message of its own that
came back with its place, and `reset` where something was missed. Leaves with the host, or after N messages of others
and when its own are ordered.
"""

import argparse
import json
import secrets
import struct
import sys
import time
import uuid
from collections import namedtuple

import zmq

# Every message opens with a signature, the version of the encodings, and its type.
WINDOW, HEARTBEAT, SUBMIT, RECEIVED = b"Z\1\x01", b"Z\1\x05", b"Z\1\x10", b"Z\1\x40"
HELLO, SUBSCRIBE, LIVE, LEAVE, ACK, REPAIR = (b"Z\1" + bytes((kind,)) for kind in range(0x20, 0x26))
WELCOME, REFUSED, ORDERED, MEMBERSHIP, CLOSING, MISSED, EVICTED, RESEND, PULSE = (
    b"Z\1" + bytes((kind,)) for kind in range(0x30, 0x39)
)
ACK_EVERY, PULSE_EVERY, REPAIR_RETRY, REPAIR_WINDOWS = 0.025, 2, 0.5, 64  # seconds, and windows

Message = namedtuple("Message", "epoch seq origin origin_seq topic tag headers payload")


class Reader:
    """Reads values off the front of a frame; ValueError when there is less than was announced."""

    def __init__(self, frame):
        self.frame, self.at = frame, 3

    def take(self, length):
        self.at += length
        if self.at > len(self.frame):
            raise ValueError("truncated")
        return self.frame[self.at - length : self.at]

    def numbers(self, layout):
        """Big-endian numbers: B, H, I, Q have 1, 2, 4, 8 octets. An id or token is 16s."""
        return struct.unpack(">" + layout, self.take(struct.calcsize(">" + layout)))

    def text(self):
        return self.take(*self.numbers("B")).decode()

    def varint(self):
        octet = self.take(1)[0]
        return octet if octet < 0x80 else octet - 0x80 + (self.varint() << 7)


def varint(value):
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def text(value):
    return bytes((len(value.encode()),)) + value.encode()


def parse_window(frame):
    """The number of a window, and its messages in order."""
    reader = Reader(frame)
    epoch, number, first_seq, count = reader.numbers("QQQH")
    topics = [reader.text() for _ in range(*reader.numbers("H"))]
    origins = [list(reader.numbers("16sQ")) for _ in range(*reader.numbers("H"))]
    messages = []
    for seq in range(first_seq, first_seq + count):
        topic, origin, (tag,) = topics[reader.varint()], origins[reader.varint()], reader.take(1)
        headers, payload = reader.take(reader.varint()), reader.take(reader.varint())
        messages.append(Message(epoch, seq, *origin, topic, tag, headers, payload))
        origin[1] += 1  # the entry's next record is the origin's next message
    return number, messages


class ZincClient:
    """A member that takes every topic. `poll` returns what happened, as pairs of a word and a message."""

    lanes, prefixes = (b"W",), ("",)

    def __init__(self, address, cluster="default", token=b"", timeout=10):
        self.id, self.next_origin_seq, self.ordered, self.received, self.outbox = uuid.uuid4().bytes, 1, 0, 0, []
        self.session, self.number, self.live, self.closing, self.events = None, None, False, None, []
        self.head, self.ahead, self.asked, self.acked, self.acked_at = 0, {}, (0, 0), None, 0
        self.poller, self.deadline = zmq.Poller(), time.monotonic() + timeout
        # Hello. The welcome names our session and the other two channels.
        self.control = self.connect(zmq.DEALER, address)
        # No session, incarnation or epoch before this one, and an empty outbox.
        rest = struct.pack(">16s16sQQQQH", self.id, bytes(16), 0, 0, 0, self.next_origin_seq, len(token)) + token
        self.control.send(HELLO + struct.pack(">H", 2) + text(cluster) + rest)
        self.wait_until(lambda: self.session)
        self.broadcast = self.connect(zmq.SUB, self.resolve(address, self.broadcast_name))
        self.submit = self.connect(zmq.PUSH, self.resolve(address, self.submit_name))
        # Subscribe, to the barrier last, and ask for it until it comes: from there on nothing is missed.
        nonce = secrets.randbits(64)
        self.barrier = b"B%016x" % nonce
        for lane in *self.lanes, self.barrier:
            self.broadcast.subscribe(lane)
        request = SUBSCRIBE + struct.pack(">QH", nonce, len(self.prefixes)) + b"".join(map(text, self.prefixes))
        self.wait_until(lambda: self.number is not None, lambda: self.control.send(request))
        # Say so. We are a member when the host tells us that we are.
        self.control.send(LIVE + struct.pack(">Q", nonce))
        self.wait_until(lambda: self.live)

    def connect(self, kind, address):
        socket = zmq.Context.instance().socket(kind)
        socket.linger = socket.rcvhwm = socket.sndhwm = 0  # no limit, so no silent loss: `unordered` is to be kept low
        socket.ipv6 = True
        socket.connect(address)
        self.poller.register(socket, zmq.POLLIN if kind != zmq.PUSH else 0)
        return socket

    def resolve(self, dialled, name):
        """A channel is named by its port, by a suffix to what we dialled, or by a whole address."""
        if name.startswith(":"):
            return dialled.rpartition(":")[0] + name
        return name if "://" in name else dialled + name

    def wait_until(self, done, ask=lambda: None):
        while not done():
            if self.closing or time.monotonic() > self.deadline:
                raise ConnectionError(f"not admitted: {self.closing or 'no answer'}")
            ask()
            self.receive(0.1)

    def receive(self, timeout):
        for socket, _ in self.poller.poll(timeout * 1000):
            handle = self.on_control if socket is self.control else self.on_broadcast
            for _ in range(100):  # then it is the other's turn
                if socket.get(zmq.EVENTS) & zmq.POLLIN:
                    handle(*socket.recv_multipart())
        if self.live and not self.closing:
            self.repair()
            self.acknowledge()

    def on_control(self, frame):
        kind, reader = frame[:3], Reader(frame)
        if kind == RECEIVED:
            return
        self.received += 1
        if self.received % 100 == 0:  # or the host takes us for dead one day
            self.control.send(RECEIVED + struct.pack(">Q", self.received))
        if kind == WELCOME:
            self.session, self.host, _, _, *_, last = reader.numbers("16s16sQBQQQBQ")
            self.next_origin_seq, self.ordered = last + 1, last
            reader.numbers("QQIII")  # the marks, the heartbeat, the lease
            [reader.text() for _ in range(*reader.numbers("H"))]  # conflatable topics
            (self.max_message,) = reader.numbers("I")
            self.broadcast_name, self.submit_name = reader.text(), reader.text()
        elif kind == WINDOW:  # repaired
            self.on_window(frame)
        elif kind == MISSED:  # the host has what we asked for no more
            epoch, number, seq = reader.numbers("QQQ")
            if number > self.number:
                self.epoch, self.number, self.seq = epoch, number, seq
                self.events.append(("reset", Message(epoch, seq + 1, self.host, 0, "", 0, b"", b"")))
                self.deliver()
        elif kind == ORDERED:
            for _ in range(*reader.numbers("H")):
                _, first, _, count = reader.numbers("QQQI")
                self.on_ordered(first + count - 1)
        elif kind == RESEND:
            (first,) = reader.numbers("Q")
            for last, body in self.outbox:
                if last >= first:
                    self.submit.send_multipart((SUBMIT + self.session, body))
        elif kind == MEMBERSHIP:  # those who joined, each with a role, then those who left
            self.live |= self.id in [reader.numbers("16sB")[0] for _ in range(*reader.numbers("I"))]
        elif kind == REFUSED:
            code, _ = reader.numbers("BI")
            self.closing = "refused with code %d: %s" % (code, reader.text())
        elif kind == EVICTED:
            self.closing = "evicted, reason %d, %d messages and %d bytes behind" % reader.numbers("BQQ")
        elif kind == CLOSING:
            self.closing = "the session is closed, reason %d" % reader.numbers("B")

    def on_broadcast(self, lane, body):
        if lane == self.barrier and self.number is None:
            self.epoch, self.number, self.seq = Reader(body).numbers("QQQ")  # what came last before us
            self.broadcast.unsubscribe(self.barrier)
        elif lane == b"W" and self.number is not None:
            if body[:3] == HEARTBEAT:  # shows the loss of the last window of a burst
                self.head = max(self.head, Reader(body).numbers("QQQ")[1])
            else:
                self.on_window(body)

    def on_window(self, frame):
        number, messages = parse_window(frame)
        self.head = max(self.head, number)
        if number > self.number and len(self.ahead) < 1000:  # what we do not keep we ask for later
            self.ahead[number] = messages
        self.deliver()

    def deliver(self):
        """Hands on what is next in order: nothing behind a gap."""
        while messages := self.ahead.pop(self.number + 1, None):
            self.number, self.epoch, self.seq = self.number + 1, messages[-1].epoch, messages[-1].seq
            for message in messages:
                if message.origin == self.id:  # the echo; ORDERED on control says the same, and may be earlier
                    self.on_ordered(message.origin_seq)
                self.events.append(("ordered" if message.origin == self.id else "message", message))
        self.ahead = {number: messages for number, messages in self.ahead.items() if number > self.number}

    def on_ordered(self, origin_seq):
        """Our messages up to this one have their places: we need not keep them."""
        self.ordered = max(self.ordered, origin_seq)
        self.outbox = [(last, body) for last, body in self.outbox if last > self.ordered]

    def repair(self):
        """Asks for the windows that are missing, and again if they do not come."""
        first, (asked, asked_at) = self.number + 1, self.asked
        if first <= self.head and (first > asked or time.monotonic() > asked_at + REPAIR_RETRY):
            last = min([self.head, first + REPAIR_WINDOWS - 1, *(number - 1 for number in self.ahead)])
            self.control.send(REPAIR + struct.pack(">QQ", first, last))
            self.asked = last, time.monotonic()

    def acknowledge(self):
        """Says how far we have come: what was handed to our caller is handled when it comes back for more."""
        handled = (self.epoch, self.seq) if not self.events else self.handled
        ack = struct.pack(">QQQQQ", self.epoch, self.seq, *handled, self.ordered)
        since = time.monotonic() - self.acked_at
        if since > PULSE_EVERY or (ack != self.acked and since > ACK_EVERY):
            self.control.send(ACK + ack)
            self.acked, self.acked_at, self.handled = ack, time.monotonic(), handled

    def poll(self, timeout=0):
        if not self.events:
            self.receive(timeout)
        events, self.events = self.events, []
        return events

    def send(self, topic, payload):
        """Submits a batch of one message. At most 800 batches, and 20,000 messages, should be under way."""
        head = struct.pack(">QHH", self.next_origin_seq, 1, 1) + text(topic)
        body = head + b"\0\0\0" + varint(len(payload)) + payload  # topic 0, data of raw bytes, no headers
        self.send_batch(body, 1)

    def send_batch(self, body, count):
        """Submits a batch, and keeps it to send it again if the host asks for it."""
        self.next_origin_seq += count
        self.outbox.append((self.next_origin_seq - 1, body))
        self.submit.send_multipart((SUBMIT + self.session, body))

    def unordered(self):
        return self.next_origin_seq - 1 - self.ordered

    def close(self):
        if not self.closing:
            self.control.send(LEAVE)
            self.control.poll(1000)
        for socket in self.control, self.broadcast, self.submit:
            socket.close()


def main():
    parser = argparse.ArgumentParser(description="Joins an open zincmq cluster, receives and sends.")
    parser.add_argument("address", metavar="ADDR", help="where the host is, such as tcp://127.0.0.1:5555")
    parser.add_argument("--send", nargs=2, metavar=("TOPIC", "TEXT"), action="append", default=[])
    parser.add_argument("--count", type=int, default=float("inf"), metavar="N", help="leave after N messages of others")
    options = parser.parse_args()

    def tell(event, **details):
        print(json.dumps({"event": event, **details}), flush=True)

    client, left = ZincClient(options.address), options.count
    tell("joined", id=str(uuid.UUID(bytes=client.id)), epoch=client.epoch, seq=client.seq)
    for topic, payload in options.send:
        client.send(topic, payload.encode())
    while left > 0 or client.unordered():
        events = client.poll(1)
        if client.closing and not events:  # nothing more comes
            break
        for event, message in events:
            left -= event == "message"
            if event == "message" and left < 0:  # came along with the last one
                continue
            details = message._asdict() | {"origin": str(uuid.UUID(bytes=message.origin))}
            details["payload"] = message.payload.decode(errors="replace")
            tell(event, **{key: details[key] for key in ("topic", "origin", "origin_seq", "epoch", "seq", "payload")})
    client.close()


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, LookupError, zmq.ZMQError) as error:
        sys.exit(f"zincmq_client: {error}")
    except KeyboardInterrupt:
        pass
