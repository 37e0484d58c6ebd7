"""The cluster's messages, as docs/protocol.md writes them: what a child says, and what an attacker has to read of a host."""

import os
import struct
from collections import namedtuple

WINDOW, BARRIER, HEARTBEAT, SUBMIT, RECEIVED = b"Z\1\x01", b"Z\1\x04", b"Z\1\x05", b"Z\1\x10", b"Z\1\x40"
HELLO, SUBSCRIBE, LIVE, LEAVE, ACK, REPAIR = (b"Z\1" + bytes((kind,)) for kind in range(0x20, 0x26))
WELCOME, REFUSED, ORDERED, MEMBERSHIP, CLOSING, MISSED, EVICTED, RESEND, PULSE = (
    b"Z\1" + bytes((kind,)) for kind in range(0x30, 0x39)
)
MAX_RECORDS, MAX_PREFIXES, TARGET_BYTES = 1024, 1024, 64 << 10

Welcome = namedtuple("Welcome", "session host incarnation epoch number seq last_origin_seq lease broadcast submit")


def fresh_id():
    return os.urandom(15) + b"\1"


def text(value):
    return bytes((len(value),)) + value


def hello(cluster, id, token=b"", resume=bytes(16), incarnation=0, epoch=0, first_open=0, next_seq=1, version=3):
    rest = struct.pack(">16s16sQQQQH", id, resume, incarnation, epoch, first_open, next_seq, len(token))
    return HELLO + struct.pack(">H", version) + text(cluster) + rest + token


def subscribe(nonce, prefixes):
    return SUBSCRIBE + struct.pack(">QH", nonce, len(prefixes)) + b"".join(map(text, prefixes))


def ack(epoch, seq, confirmed=0):
    return ACK + struct.pack(">QQQQQ", epoch, seq, epoch, seq, confirmed)


def record(topic, payload=b""):
    """A record of raw data without headers; `topic` is its place in the table of topics."""
    return varint(topic) + b"\0\0" + varint(len(payload)) + payload


def batch(first, records, topics):
    return struct.pack(">QHH", first, len(records), len(topics)) + b"".join(map(text, topics)) + b"".join(records)


def varint(value):
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + varint(value >> 7)


def parse_welcome(frame):
    session, host, incarnation, _, epoch, number, seq, _, last = struct.unpack_from(">16s16sQBQQQBQ", frame, 3)
    (lease,) = struct.unpack_from(">I", frame, 101)
    (count,), at = struct.unpack_from(">H", frame, 105), 107
    for _ in range(count):
        at += 1 + frame[at]
    at += 4  # the largest payload
    names = []
    for _ in range(2):
        names.append(frame[at + 1 : at + 1 + frame[at]])
        at += 1 + frame[at]
    return Welcome(session, host, incarnation, epoch, number, seq, last, lease / 1000, *names)


def parse_refused(frame):
    """The code, and the text for people."""
    return frame[3], frame[9 : 9 + frame[8]]


def parse_barrier(frame):
    """Epoch, window number and seq of a barrier or heartbeat."""
    return struct.unpack_from(">QQQ", frame, 3)


def window_end(frame):
    """Epoch, number and last seq of a window."""
    epoch, number, first, count = struct.unpack_from(">QQQH", frame, 3)
    return epoch, number, first + count - 1
