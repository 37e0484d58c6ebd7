"""false_host.py: admits whoever comes, and then does its worst. Says `listening ADDR`.

At each of these words it does and says something, as the functions of these names tell: `rubbish`, `flood`, `places`, `absurd`,
`close`, `evict`, `malformed`.
"""

import itertools
import struct
import sys

import zmq
from raw import HEARTBEAT, REPAIR, listen, record, say, text, window

EPOCH, HOST = 1_000_000, b"h" * 16
# The types of what a parent says on control.
WELCOME, ORDERED, MEMBERSHIP, CLOSING, MISSED, EVICTED, RESEND, RECEIVED = (
    b"Z\1" + bytes((kind,)) for kind in (0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x40)
)
context = zmq.Context.instance()
router, publisher, puller = (context.socket(kind) for kind in (zmq.ROUTER, zmq.PUB, zmq.PULL))
router.router_mandatory = True
publisher.sndhwm = 0
ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (router, publisher, puller)]
broadcasts = barriers = control = 0
origin_seqs = itertools.count(1)


def publish(*frames):
    publisher.send_multipart(frames)


def rubbish(*frames):
    global broadcasts
    broadcasts += 1
    publish(*frames)


def tell(frame):
    router.send_multipart([peer, frame])


def tell_rubbish(*frames):
    global control
    control += 1
    router.send_multipart([peer, *frames])


def place(kind, epoch, number, seq):
    return kind + struct.pack(">QQQ", epoch, number, seq)


def one(number, seq, payload, epoch=EPOCH):
    """A window of one record. Each is the next of its origin: nothing comes twice, whatever session it comes in."""
    return window(epoch, number, seq, [record(0, 0, payload=payload)], origins=((b"o" * 16, next(origin_seqs)),))


def asked():
    """What the child asks for next: the first window and the last."""
    while True:
        _, frame = router.recv_multipart()
        if frame[:3] == REPAIR:
            return struct.unpack(">QQ", frame[3:])


def admit():
    """Takes the next child in by the book, but for barriers that are none."""
    global barriers
    while True:
        peer, frame = router.recv_multipart()
        kind, rest = frame[:3], frame[3:]
        if kind == b"Z\1\x20":
            child = rest[10:26]
            numbers = struct.pack(">16s16sQBQQQBQ", b"s" * 16, HOST, 7, 2, EPOCH, 0, 0, 0, 0)
            numbers += struct.pack(">QQIIIHI", 1 << 20, 1 << 20, 60_000, 100, 60_000, 0, 65_536)
            names = text(f":{ports[1]}") + text(f":{ports[2]}")
            router.send_multipart([peer, WELCOME + numbers + names + struct.pack(">I", 0)])
        elif kind == b"Z\1\x21":
            barrier = b"B" + rest[:8].hex().encode()
            # How many of them come depends on when the subscription arrives: all three or none each time.
            barriers += 1
            publish(barrier, b"rubbish")
            publish(barrier, place(b"Z\1\x04", EPOCH, 2**64 - 1, 0))
            publish(barrier, place(b"Z\1\x04", 2**63, 0, 0))
            publish(barrier, place(b"Z\1\x04", EPOCH, 0, 0))
        elif kind == b"Z\1\x22":
            router.send_multipart([peer, MEMBERSHIP + struct.pack(">I", 1) + child + b"\2" + struct.pack(">I", 0)])
            return peer


def send_rubbish():
    """Publishes and sends again windows that are none, and a few that are; says how many of the former there were on broadcast, how
    often there were three barriers that are none, and how many there were on control.
    """
    good = one(1, 1, b"first")
    for length in range(len(good)):
        rubbish(b"W", good[:length])
    rubbish(b"W")
    rubbish(b"W", good, good)
    rubbish(b"Whatever", good)
    rubbish(b"W\0", good)
    rubbish(b"W", good + b"\0")
    rubbish(b"W", b"Y" + good[1:])
    rubbish(b"W", b"Z\2" + good[2:])
    rubbish(b"W", b"Z\1\2" + good[3:])
    rubbish(b"W", b"\xff" * 1_000_000)
    some = [record(0, 0)]
    for wrong in [
        window(2**63, 1, 1, some),
        window(EPOCH, 0, 1, some),
        window(EPOCH, 2**64 - 1, 1, some),
        window(EPOCH, 1, 0, some),
        window(EPOCH, 1, 2**64 - 1, some),
        window(EPOCH, 1, 1, []),
        window(EPOCH, 1, 1, some, count=0),
        window(EPOCH, 1, 1, some, count=1025),
        window(EPOCH, 1, 1, some * 1025),
        window(EPOCH, 1, 1, some, count=65535),
        window(EPOCH, 1, 1, some, topic_count=0),
        window(EPOCH, 1, 1, some, topic_count=65535),
        window(EPOCH, 1, 1, some, topics=("a", "b")),
        window(EPOCH, 1, 1, some, topics=("",)),
        window(EPOCH, 1, 1, some, topics=("line\nbreak",)),
        window(EPOCH, 1, 1, some, origin_count=0),
        window(EPOCH, 1, 1, some, origin_count=65535),
        window(EPOCH, 1, 1, some, origins=((HOST, 0),)),
        window(EPOCH, 1, 1, some, origins=((HOST, 2**64 - 1),)),
        window(EPOCH, 1, 1, [record(1, 0)]),
        window(EPOCH, 1, 1, [record(0, 1)]),
        window(EPOCH, 1, 1, [record(2**64 - 1, 2**64 - 1)]),
        window(EPOCH, 1, 1, [record(0, 0, tag=0xFF)]),
        window(EPOCH, 1, 1, [record(0, 0, headers=b"\xff")]),
        window(EPOCH, 1, 1, [record(0, 0, headers=bytes(1025))]),
        window(EPOCH, 1, 1, [record(0, 0, payload=bytes(65_537))]),
        window(EPOCH, 1, 1, [record(0, 0, payload=bytes(20_000_000))]),
        window(EPOCH, 1, 1, [b"\0\0\0\0" + b"\xff" * 9 + b"\1"]),
    ]:
        rubbish(b"W", wrong)
    # Of an epoch that is over; and what was had, at the end.
    publish(b"W", one(1, 1, b"over", epoch=EPOCH - 1))
    publish(b"W", good)
    publish(b"W", good)
    publish(b"W", one(9, 99, b"ninth"))
    publish(b"W", one(10, 100, b"tenth"))
    if asked() != (2, 8):
        sys.exit("it asks for something else than what is missing")
    second = one(2, 2, b"second")
    for length in range(len(second)):
        tell_rubbish(second[:length])
    for frame in [
        b"rubbish",
        second + b"\0",
        window(2**63, 2, 2, some),
        window(EPOCH, 2, 2, some, count=65535),
        window(EPOCH, 2, 2, some, origin_count=65535),
        window(EPOCH, 2, 2, [record(0, 0, payload=bytes(65_537))]),
        window(EPOCH, 2, 2, [record(2**64 - 1, 2**64 - 1)]),
        MISSED,
        place(MISSED, EPOCH, 2**64 - 1, 98),
        place(MISSED, EPOCH, 8, 2**64 - 1),
        place(MISSED, 2**63, 8, 98),
        place(MISSED, EPOCH, 8, 98) + b"\0",
        MEMBERSHIP + b"\xff" * 4,
        MEMBERSHIP + b"\xff" * 1_000_000,
        RECEIVED + b"\xff" * 8,
        WELCOME + bytes(200),
        EVICTED + bytes(100),
    ]:
        tell_rubbish(frame)
    tell_rubbish(second, second)
    tell(second)
    # Up to what came is nothing new: it asks once more for what is still missing.
    tell(place(MISSED, EPOCH, 1, 1))
    if asked() != (3, 8):
        sys.exit("it asks for something else than what is still missing")
    tell(place(MISSED, EPOCH, 8, 98))
    publish(b"W", good)
    say("malformed", broadcasts, barriers, control)


def flood():
    """Loses the first of many windows, which together are more than may wait for it. Says what is asked for; at `missed`, when all have
    come, that it is gone, and what is asked for then; and sends that again at `rest`.
    """
    windows = {number: one(number, number, bytes(60_000)) for number in range(2, 31)}
    for number in windows:
        publish(b"W", windows[number])
    say("asked", *asked())
    expect("missed")
    tell(place(MISSED, EPOCH, 1, 1))
    first, last = asked()
    say("asked", first, last)
    expect("rest")
    for number in range(first, last + 1):
        tell(windows[number])


def expect(word):
    if listen() != word:
        sys.exit(f"{word} is what is to be said")


def ordered(first, seq, count, runs=1):
    return ORDERED + struct.pack(">HQQQI", runs, EPOCH, first, seq, count)


def give_places():
    """Tells places of what was never sent, asks for what cannot be, and then does both right for two messages; says how much of that
    is malformed, and how many batches came.
    """
    submitted = [puller.recv_multipart()[1]]
    count = struct.unpack(">H", submitted[0][8:10])[0]
    while count < 2:  # they did not travel together
        submitted.append(puller.recv_multipart()[1])
        count += struct.unpack(">H", submitted[-1][8:10])[0]
    batches = len(submitted)
    for first, seq, count in (0, 1, 1), (1, 0, 1), (1, 2**64 - 1, 2), (2**64 - 1, 1, 2), (1, 1, 0):
        tell_rubbish(ordered(first, seq, count))
    tell_rubbish(ORDERED + b"\xff\xff")
    tell_rubbish(ordered(1, 7, 1, runs=2))
    for run in (1, 7, 3), (1, 7, 2**32 - 1), (3, 9, 1), (2**40, 1, 1), (2**64 - 2, 1, 1), (2**63, 2**63, 2**32 - 1):
        tell(ordered(*run))
    for first in 2**64 - 1, 2**62 + 1:
        tell_rubbish(RESEND + struct.pack(">Q", first))
    for first in 2**62, 0, 1:
        tell(RESEND + struct.pack(">Q", first))
    for _ in range(2 * batches):
        submitted.append(puller.recv_multipart()[1])
    if submitted != 3 * submitted[:batches]:
        sys.exit("it sends something else again")
    # The first one twice: what is known already adds nothing.
    for run in (1, 7, 1), (1, 7, 1), (1, 7, 2):
        tell(ordered(*run))
    say("malformed", control, batches)


def claim_absurd_numbers():
    """Claims that there are as many windows as there can be, and has none of them but the last; says what was asked for."""
    for epoch, number, seq in (EPOCH, 2**64 - 1, 1), (EPOCH, 2**64 - 2, 1), (EPOCH, 1, 2**64 - 1), (2**63, 1, 1):
        rubbish(b"W", place(HEARTBEAT, epoch, number, seq))
    publish(b"W", place(HEARTBEAT, EPOCH - 1, 500, 500))
    publish(b"W", place(HEARTBEAT, EPOCH, 2**64 - 3, 2**64 - 3))
    first = asked()
    tell_rubbish(place(MISSED, EPOCH, 2**64 - 2, 2**64 - 2))
    tell(place(MISSED, EPOCH, 2**63, 2**63))
    second = asked()
    tell(place(MISSED, EPOCH, 2**64 - 3, 2**64 - 3))
    publish(b"W", one(2**64 - 2, 2**64 - 2, b"absurd"))
    say("asked", *first, *second)


def evict():
    """Sends the child away, for reasons that cannot be; at once welcome again."""
    numbers = struct.pack(">BQQIQQI16s", 2, 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**62, 2**64 - 3, 0, b"s" * 16)
    tell(EVICTED + numbers + text("go"))


say("listening", f"tcp://127.0.0.1:{ports[0]}")
peer = admit()
while True:
    word = listen()
    if word == "rubbish":
        send_rubbish()
    elif word == "flood":
        flood()
    elif word == "places":
        give_places()
    elif word == "absurd":
        claim_absurd_numbers()
    elif word == "close":
        tell(CLOSING + struct.pack(">BQQ", 4, EPOCH, 0))
        peer = admit()
    elif word == "evict":
        evict()
        peer = admit()
    elif word == "malformed":
        say("malformed", control)
    else:
        sys.exit(f"what is {word!r}?")
