#!/usr/bin/env python3
"""A zincmq client in Python: joins an open cluster, receives, and sends. Needs pyzmq (pip install pyzmq), and follows docs/protocol.md.

    zincmq_client.py ADDR [--send TOPIC TEXT]... [--count N]

Prints one JSON object per line: `joined`, then `message` for what others send, `ordered` for each message of its own that
came back with its place, `refused` where some up to one are not ordered, and `reset` where something was missed. Leaves with the host, or after N messages of others
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
ACK_EVERY, REPAIR_RETRY, LAST_WORD = 0.025, 0.5, 0.5  # seconds
REPAIR_WINDOWS, AHEAD_WINDOWS, UNREPORTED = 64, 1000, 1000

Message = namedtuple("Message", "epoch seq origin origin_seq topic tag headers payload")
Piece = namedtuple("Piece", "epoch last_seq messages size")  # what a window comes to for us


class Reader:
    """Reads values off the front of a frame; ValueError when there is less than was announced, or more."""

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
        value = 0
        for shift in range(0, 70, 7):
            octet = self.take(1)[0]
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        raise ValueError("a number of more than ten octets")

    def end(self):
        if self.at != len(self.frame):
            raise ValueError("more than there should be")


def varint(value):
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def text(value):
    return bytes((len(value.encode()),)) + value.encode()


def parse_window(frame):
    """The number of a window, and its messages in order."""
    reader = Reader(frame)
    epoch, number, first_seq, count = reader.numbers("QQQH")
    if frame[:3] != WINDOW or not 1 <= count <= 1024:
        raise ValueError("no window")
    topics = [reader.text() for _ in range(*reader.numbers("H"))]
    origins = [list(reader.numbers("16sQ")) for _ in range(*reader.numbers("H"))]
    messages = []
    for seq in range(first_seq, first_seq + count):
        topic, origin, (tag,) = topics[reader.varint()], origins[reader.varint()], reader.take(1)
        headers, payload = reader.take(reader.varint()), reader.take(reader.varint())
        messages.append(Message(epoch, seq, *origin, topic, tag, headers, payload))
        origin[1] += 1  # the entry's next record is the origin's next message
    reader.end()
    return number, messages


class ZincClient:
    """A member for one session, that takes every topic.

    `poll` returns what happened, as pairs of a word and a message. Call it often: what it returned counts as handled when it is called
    again, and the host hears of us only then. When `closing` says why, the session is over.
    """

    lanes, prefixes = (b"W",), ("",)

    def __init__(self, address, cluster="default", token=b"", timeout=10):
        self.id, self.next_origin_seq, self.ordered, self.outbox = uuid.uuid4().bytes, 1, 0, []
        self.session, self.number, self.live, self.last = None, None, False, None
        self.leaving, self.closing, self.evicted, self.malformed = False, None, None, 0
        self.head, self.ahead, self.asked, self.size, self.place = 0, {}, (0, 0), 0, (0, 0)
        self.sent, self.reported, self.received, self.acked, self.acked_at, self.events = 0, 0, 0, None, 0, []
        self.poller, self.monitors, self.heard, self.lease, self.looked_at = zmq.Poller(), [], {}, timeout, time.monotonic()
        self.deadline = time.monotonic() + timeout
        # Hello. The welcome names our session and the other two channels.
        self.control = self.connect(zmq.DEALER, address)
        # No session, incarnation or epoch before this one, and an empty outbox.
        rest = struct.pack(">16s16sQQQQH", self.id, bytes(16), 0, 0, 0, self.next_origin_seq, len(token)) + token
        self.say(HELLO + struct.pack(">H", 3) + text(cluster) + rest)
        self.wait_until(lambda: self.session)
        self.broadcast = self.connect(zmq.SUB, self.resolve(address, self.broadcast_name))
        self.submit = self.connect(zmq.PUSH, self.resolve(address, self.submit_name))
        # Subscribe, to the barrier last, and ask for it until it comes: from there on nothing is missed.
        nonce = secrets.randbits(64)
        self.barrier = b"B%016x" % nonce
        for lane in *self.lanes, self.barrier:
            self.broadcast.subscribe(lane)
        request = SUBSCRIBE + struct.pack(">QH", nonce, len(self.prefixes)) + b"".join(map(text, self.prefixes))
        self.wait_until(lambda: self.number is not None, lambda: self.say(request))
        # Say so. We are a member when the host tells us that we are.
        self.say(LIVE + struct.pack(">Q", nonce))
        self.wait_until(lambda: self.live)

    def connect(self, kind, address):
        socket = zmq.Context.instance().socket(kind)
        socket.linger = socket.rcvhwm = socket.sndhwm = 0  # no limit, so no silent loss: `unordered` is to be kept low
        socket.ipv6 = True
        # libzmq would connect anew behind our back; what was lost is to be told instead.
        self.monitors.append(socket.get_monitor_socket(zmq.EVENT_DISCONNECTED))
        self.poller.register(self.monitors[-1], zmq.POLLIN)
        socket.connect(address)
        self.poller.register(socket, zmq.POLLIN if kind != zmq.PUSH else 0)
        self.heard[socket] = time.monotonic()
        return socket

    def resolve(self, dialled, name):
        """A channel is named by its port, by a suffix to what we dialled, or by a whole address."""
        if name.startswith(":"):
            return dialled.rpartition(":")[0] + name
        return name if "://" in name else dialled + name

    def wait_until(self, done, ask=lambda: None):
        ask_at, pause = 0, 0.02
        while not done():
            if self.closing or time.monotonic() > self.deadline:
                raise ConnectionError(f"not admitted: {self.closing or 'no answer'}")
            if time.monotonic() >= ask_at:
                ask()
                ask_at, pause = time.monotonic() + pause, min(2 * pause, 0.5)
            self.receive(0.02)

    def say(self, frame):
        """Sends on control. What is not reported as received may fill a queue, so that is bounded."""
        if self.sent - self.reported >= UNREPORTED:
            self.closing = self.closing or "the host does not answer"
            return
        self.sent += 1
        self.control.send(frame)

    def receive(self, timeout):
        if time.monotonic() > self.looked_at + self.lease / 2:  # nobody called: that proves nothing
            self.heard = dict.fromkeys(self.heard, time.monotonic())
        ready = dict(self.poller.poll(timeout * 1000))
        lost = any(monitor in ready for monitor in self.monitors)
        if lost:
            self.control.poll(LAST_WORD * 1000)  # an eviction, say
        for socket in [socket for socket in self.heard if lost or socket in ready]:
            for _ in range(1 << 20 if lost else 100):  # then it is the other's turn
                if not socket.get(zmq.EVENTS) & zmq.POLLIN:
                    break
                self.heard[socket] = time.monotonic()
                self.take_in(socket, socket.recv_multipart())
        self.looked_at = time.monotonic()
        if lost:
            self.closing = self.closing or "a connection was lost"
        if self.number is not None and not self.closing and not self.leaving:
            self.see_to_lease()
            self.repair()
            self.acknowledge()
            if self.last is not None and self.number >= self.last and not self.outbox:
                self.leave()

    def take_in(self, socket, frames):
        try:
            if socket is self.control and len(frames) == 1:
                self.on_control(*frames)
            elif socket is not self.control and len(frames) == 2:
                self.on_broadcast(*frames)
            else:
                raise ValueError("another number of frames")
        except (ValueError, LookupError):
            self.malformed += 1

    def see_to_lease(self):
        """Nothing heard for a whole lease, or nothing ordered of what was submitted: the way is blocked, or the host is dead."""
        if not self.outbox:
            self.heard[self.submit] = self.looked_at
        if min(self.heard.values()) + self.lease < self.looked_at:
            self.closing = "the host has fallen silent"

    def on_control(self, frame):
        kind, reader = frame[:3], Reader(frame)
        if kind == RECEIVED:
            (count,) = reader.numbers("Q")
            if not self.reported <= count <= self.sent:
                raise ValueError("a report of what was not said")
            self.reported = count
            return
        if kind == REFUSED:
            code, _ = reader.numbers("BI")
            self.closing = "refused with code %d: %s" % (code, reader.text())
            return
        self.received += 1
        if self.received % 100 == 0:  # or the host takes us for dead one day
            self.control.send(RECEIVED + struct.pack(">Q", self.received))
        if kind == WELCOME:
            session, self.host, _, _, *_, last = reader.numbers("16s16sQBQQQBQ")
            self.next_origin_seq, self.ordered = last + 1, last
            *self.marks, _, _, lease = reader.numbers("QQIII")  # between them an age, and the interval of heartbeats
            [reader.text() for _ in range(*reader.numbers("H"))]  # conflatable topics
            (self.max_message,) = reader.numbers("I")
            self.broadcast_name, self.submit_name = reader.text(), reader.text()
            self.session, self.lease = session, lease / 1000
        elif kind == WINDOW and self.number is not None:  # repaired
            self.on_window(frame)
        elif kind == MISSED and self.number is not None:  # the host has what we asked for no more
            epoch, number, seq = reader.numbers("QQQ")
            if number > self.number:
                self.epoch, self.number, self.seq, self.head = epoch, number, seq, max(self.head, number)
                self.events.append(("reset", Message(epoch, seq + 1, self.host, 0, "", 0, b"", b"")))
                self.deliver()
            self.asked = 0, 0
        elif kind == ORDERED:
            self.heard[self.submit] = time.monotonic()
            for _ in range(*reader.numbers("H")):
                epoch, first, first_seq, count = reader.numbers("QQQI")
                if self.ordered < first + count - 1 < self.next_origin_seq:
                    if first_seq:
                        self.place = epoch, first_seq + count - 1
                    else:  # refused: about a document that we may not change
                        last = first + count - 1
                        self.events.append(("refused", Message(self.epoch, self.seq, self.id, last, "", 0, b"", b"")))
                    self.ordered = first + count - 1
            # We need not keep what has its place, or gets none.
            self.outbox = [(last, body) for last, body in self.outbox if last > self.ordered]
        elif kind == RESEND:
            self.heard[self.submit] = time.monotonic()
            (first,) = reader.numbers("Q")
            for last, body in self.outbox:
                if last >= first:
                    self.submit_batch(body)
        elif kind == PULSE:
            if reader.numbers("B") == (1,):  # paced: nobody's messages are ordered
                self.heard[self.submit] = time.monotonic()
        elif kind == MEMBERSHIP:  # those who joined, each with a role, then those who left
            self.live |= self.id in [reader.numbers("16sB")[0] for _ in range(*reader.numbers("I"))]
        elif kind == EVICTED:
            self.evicted, *behind, age, _, _, pause, _ = reader.numbers("BQQIQQI16s")
            self.closing = "evicted, reason %d, %d messages and %d bytes behind, for %d ms" % (self.evicted, *behind, age)
            self.closing += ", not to come back before %d ms: %s" % (pause, reader.text())
        elif kind == CLOSING:
            reason, _, number = reader.numbers("BQQ")
            if reason == 2:  # the host shuts down: we leave when we have all that it published
                self.last = number
            else:
                self.closing = "the session is closed, reason %d" % reason
        else:
            raise ValueError("an unknown type of message")

    def on_broadcast(self, lane, body):
        if lane == self.barrier:
            if self.number is None:
                self.epoch, self.number, self.seq = Reader(body).numbers("QQQ")  # what came last before us
                self.floor, self.head = self.epoch, self.number
                self.handled = self.handed = self.epoch, self.seq, 0
                self.broadcast.unsubscribe(self.barrier)
        elif lane == b"W" and self.number is not None:
            if body[:3] == HEARTBEAT:
                self.on_heartbeat(Reader(body))
            else:
                self.on_window(body)

    def on_heartbeat(self, reader):
        """It shows the loss of the last window of a burst."""
        epoch, number, _ = reader.numbers("QQQ")
        if epoch >= self.floor:
            self.head = max(self.head, number)

    def on_window(self, frame):
        number, messages = parse_window(frame)
        matching = [message for message in messages if message.topic.startswith(self.prefixes)]
        self.put(number, Piece(messages[-1].epoch, messages[-1].seq, matching, len(frame)))

    def put(self, number, piece):
        """A window is there. Ahead of a gap we keep only so many: the others we ask for later."""
        if number <= self.number or piece.epoch < self.floor:  # had before, or of a host that reigns no more
            return
        self.head = max(self.head, number)
        if number == self.number + 1 or len(self.ahead) < AHEAD_WINDOWS:
            self.ahead[number] = piece
        self.deliver()

    def deliver(self):
        """Hands on what is next in order: nothing behind a gap."""
        while piece := self.ahead.pop(self.number + 1, None):
            self.number, self.epoch, self.seq, self.size = self.number + 1, piece.epoch, piece.last_seq, self.size + piece.size
            # Our own are the echo. That they have their places we know from ORDERED on control, which may be earlier.
            self.events += [("ordered" if message.origin == self.id else "message", message) for message in piece.messages]
            self.asked = self.asked[0], time.monotonic()  # what we asked for is coming
        self.ahead = {number: piece for number, piece in self.ahead.items() if number > self.number}

    def repair(self):
        """Asks for the windows that are missing, and again if none of them comes."""
        first, (asked, asked_at) = self.number + 1, self.asked
        if first <= self.head and (first > asked or time.monotonic() > asked_at + REPAIR_RETRY):
            last = min([self.head, first + REPAIR_WINDOWS - 1, *(number - 1 for number in self.ahead)])
            self.say(REPAIR + struct.pack(">QQ", first, last))
            self.asked = last, time.monotonic()

    def acknowledge(self):
        """Says how far we have come: when there is news, at once when it is much, and as a sign of life."""
        ack, since = (self.epoch, self.seq, *self.handled[:2], self.ordered), time.monotonic() - self.acked_at
        much = self.acked and any(8 * (now - then) > mark for now, then, mark in zip(self.handled[1:], self.told, self.marks))
        if since > self.lease / 5 or (ack != self.acked and (since > ACK_EVERY or much)):
            self.say(ACK + struct.pack(">QQQQQ", *ack))
            self.acked, self.acked_at, self.told = ack, time.monotonic(), self.handled[1:]

    def poll(self, timeout=0):
        self.handled = self.handed
        if not self.events:
            self.receive(timeout)
        self.handed = self.epoch, self.seq, self.size
        events, self.events = self.events, []
        return events

    def send(self, topic, payload):
        """Submits a batch of one message. At most 800 batches, and 20,000 messages, should be under way."""
        head = struct.pack(">QHH", self.next_origin_seq, 1, 1) + text(topic)
        body = head + b"\0\0\0" + varint(len(payload)) + payload  # topic 0, data of raw bytes, no headers
        self.send_batch(body, 1)

    def send_batch(self, body, count):
        """Submits a batch, and keeps it to send it again if the host asks for it."""
        if self.closing or self.leaving or self.last is not None:
            raise ConnectionError(f"nothing more can be sent: {self.closing or 'the session ends'}")
        if not self.outbox:
            self.heard[self.submit] = time.monotonic()
        self.next_origin_seq += count
        self.outbox.append((self.next_origin_seq - 1, body))
        self.submit_batch(body)

    def submit_batch(self, body):
        self.submit.send_multipart((SUBMIT + self.session, body))

    def unordered(self):
        return self.next_origin_seq - 1 - self.ordered

    def is_echoed(self):
        """Whether all that we sent has its place, and has come back or was missed."""
        return not self.unordered() and (self.epoch, self.seq) >= self.place

    def leave(self):
        self.leaving = True
        self.say(LEAVE)

    def close(self):
        """Leaves, if that is not done. What we submitted should be ordered before."""
        if not self.closing and not self.leaving:
            self.leave()
        deadline = time.monotonic() + 5
        while not self.closing and time.monotonic() < deadline:  # the answer is a courtesy
            self.receive(0.1)
        for socket in self.heard:
            socket.disable_monitor()
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
    while left > 0 or not client.is_echoed():
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
