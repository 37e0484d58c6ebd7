"""false_host.py: admits whoever comes, and then publishes rubbish. Says `listening ADDR`.

At the word `rubbish` it publishes windows that are none, and a few that are, among them number 1 and, behind a gap, number 10; and
says how many of the former there were, and how often it sent three barriers that are none. At `absurd` it publishes a window with
the highest number there is, at `rubbish on control` what it says, and at `close` it ends the session.
"""

import struct
import sys

import zmq
from raw import listen, record, say, text, window

EPOCH, HOST = 1_000_000, b"h" * 16
context = zmq.Context.instance()
router, publisher, puller = (context.socket(kind) for kind in (zmq.ROUTER, zmq.PUB, zmq.PULL))
router.router_mandatory = True
ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (router, publisher, puller)]
malformed = barriers = 0


def publish(*frames):
    publisher.send_multipart(frames)


def rubbish(*frames):
    global malformed
    malformed += 1
    publish(*frames)


def admit():
    """Takes the next child in by the book, but for barriers that are none."""
    global barriers
    while True:
        peer, frame = router.recv_multipart()
        kind, rest = frame[:3], frame[3:]
        if kind == b"Z\1\x20":
            child = rest[10:26]
            numbers = struct.pack(">16s16sQBQQQBQ", b"s" * 16, HOST, 7, 2, EPOCH, 0, 0, 0, 0)
            numbers += struct.pack(">QQIIIHI", 1 << 20, 1 << 26, 5_000, 100, 60_000, 0, 65_536)
            names = text(f":{ports[1]}") + text(f":{ports[2]}")
            router.send_multipart([peer, b"Z\1\x30" + numbers + names + struct.pack(">I", 0)])
        elif kind == b"Z\1\x21":
            barrier = b"B" + rest[:8].hex().encode()
            # How many of them come depends on when the subscription arrives: all three or none each time.
            barriers += 1
            publish(barrier, b"rubbish")
            publish(barrier, b"Z\1\x04" + struct.pack(">QQQ", EPOCH, 2**64 - 1, 0))
            publish(barrier, b"Z\1\x04" + struct.pack(">QQQ", 2**63, 0, 0))
            publish(barrier, b"Z\1\x04" + struct.pack(">QQQ", EPOCH, 0, 0))
        elif kind == b"Z\1\x22":
            router.send_multipart([peer, b"Z\1\x33" + struct.pack(">I", 1) + child + b"\2" + struct.pack(">I", 0)])
            return peer


def publish_rubbish():
    good = window(EPOCH, 1, 1, [record(0, 0, payload=b"first")])
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
    one = [record(0, 0)]
    for wrong in [
        window(EPOCH, 0, 1, one),
        window(EPOCH, 2**64 - 1, 1, one),
        window(EPOCH, 1, 0, one),
        window(EPOCH, 1, 2**64 - 1, one),
        window(EPOCH, 1, 1, []),
        window(EPOCH, 1, 1, one, count=0),
        window(EPOCH, 1, 1, one, count=1025),
        window(EPOCH, 1, 1, one * 1025),
        window(EPOCH, 1, 1, one, count=65535),
        window(EPOCH, 1, 1, one, topic_count=0),
        window(EPOCH, 1, 1, one, topic_count=65535),
        window(EPOCH, 1, 1, one, topics=("a", "b")),
        window(EPOCH, 1, 1, one, topics=("",)),
        window(EPOCH, 1, 1, one, topics=("line\nbreak",)),
        window(EPOCH, 1, 1, one, origin_count=0),
        window(EPOCH, 1, 1, one, origin_count=65535),
        window(EPOCH, 1, 1, one, origins=((HOST, 0),)),
        window(EPOCH, 1, 1, one, origins=((HOST, 2**64 - 1),)),
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
    # Well-formed, but of an epoch that cannot be, and of one that is over.
    publish(b"W", window(2**63, 1, 1, one))
    publish(b"W", window(EPOCH - 1, 1, 1, one))
    publish(b"W", good)
    publish(b"W", good)
    publish(b"W", window(EPOCH, 10, 100, [record(0, 0, payload=b"tenth")]))
    publish(b"W", window(EPOCH, 9, 99, [record(0, 0, payload=b"too late")]))
    say("malformed", malformed, barriers)


say("listening", f"tcp://127.0.0.1:{ports[0]}")
peer = admit()
while True:
    word = listen()
    if word == "rubbish":
        publish_rubbish()
    elif word == "absurd":
        publish(b"W", window(EPOCH, 2**64 - 2, 2**63, [record(0, 0, payload=b"absurd")]))
    elif word == "close":
        router.send_multipart([peer, b"Z\1\x34" + struct.pack(">BQQ", 4, EPOCH, 0)])
        peer = admit()
    elif word == "rubbish on control":
        for frame in b"", b"rubbish", b"Z\1\x33" + b"\xff" * 4, b"Z\1\x33" + b"\xff" * 1_000_000, b"Z\1\x40" + b"\xff" * 8:
            router.send_multipart([peer, frame])
    else:
        sys.exit(f"what is {word!r}?")
