"""What the scripts in this folder share: the example client, more of a client than it is, and bytes to order."""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"))

# Found by the line above; some of it is for those who import this module.
from zincmq_client import (  # noqa: E402, F401
    ACK,
    HEARTBEAT,
    HELLO,
    LIVE,
    SUBMIT,
    WINDOW,
    Message,
    Piece,
    RECEIVED,
    REPAIR,
    Reader,
    ZincClient,
    parse_window,
    text,
    varint,
)


def say(*words):
    print(*words, flush=True)


def listen():
    """Waits for the test's next word; ends the script when there is none."""
    return sys.stdin.readline().strip() or sys.exit()


def record(*places, tag=0, headers=b"", payload=b""):
    return b"".join(map(varint, places)) + bytes((tag,)) + varint(len(headers)) + headers + varint(len(payload)) + payload


def batch(first, records, topics=("t",), count=None, topic_count=None):
    """A batch's body. Counts may be made to lie."""
    counts = struct.pack(">HH", len(records) if count is None else count, len(topics) if topic_count is None else topic_count)
    return struct.pack(">Q", first) + counts + b"".join(map(text, topics)) + b"".join(records)


def window(epoch, number, first_seq, records, topics=("t",), origins=((b"o" * 16, 1),), count=None, topic_count=None, origin_count=None):
    """A window. Counts may be made to lie."""
    out = WINDOW + struct.pack(">QQQH", epoch, number, first_seq, len(records) if count is None else count)
    out += struct.pack(">H", len(topics) if topic_count is None else topic_count) + b"".join(map(text, topics))
    out += struct.pack(">H", len(origins) if origin_count is None else origin_count)
    return out + b"".join(struct.pack(">16sQ", *origin) for origin in origins) + b"".join(records)


class FilteredClient(ZincClient):
    """A client that takes the topics of some prefixes: it reads the lanes I and T."""

    def __init__(self, address, *prefixes):
        self.prefixes, self.lanes = prefixes, (b"I", *(b"T" + prefix.encode() for prefix in prefixes))
        self.parts = []
        super().__init__(address)

    def on_broadcast(self, lane, body):
        super().on_broadcast(lane, body)
        if self.number is None:
            return
        if lane[:1] == b"T":
            self.on_part(lane[1:].decode(), body)
        elif lane == b"I" and body[:3] == HEARTBEAT:
            self.on_heartbeat(Reader(body))
        elif lane == b"I":
            self.on_index(Reader(body))

    def on_part(self, topic, body):
        reader = Reader(body)
        epoch, number, first_seq, count = reader.numbers("QQQH")
        origins = [reader.numbers("16sQ") for _ in range(*reader.numbers("H"))]
        messages = []
        for _ in range(count):
            seq, (origin, first), origin_seq = first_seq + reader.varint(), origins[reader.varint()], reader.varint()
            (tag,), headers, payload = reader.take(1), reader.take(reader.varint()), reader.take(reader.varint())
            messages.append(Message(epoch, seq, origin, first + origin_seq, topic, tag, headers, payload))
        reader.end()
        self.parts = [part for part in self.parts if part[0] == number] + [(number, messages, len(body))]

    def on_index(self, reader):
        epoch, number, _, last_seq = reader.numbers("QQQQ")
        counts = [(reader.text(), *reader.numbers("H")) for _ in range(*reader.numbers("H"))]
        due = sum(count for topic, count in counts if topic.startswith(self.prefixes))
        parts, self.parts = [part for part in self.parts if part[0] == number], []
        messages = sorted(message for _, messages, _ in parts for message in messages if message.topic.startswith(self.prefixes))
        if len(messages) == due:
            self.put(number, Piece(epoch, last_seq, messages, sum(size for _, _, size in parts)))
        elif epoch >= self.floor:  # a part was lost, and the window with it
            self.head = max(self.head, number)
