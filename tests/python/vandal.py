"""vandal.py ADDR: joins, and then sends all kinds of rubbish on the control and submit channels.

Says `done` and how much of it a host must have counted: malformed control messages, malformed submits, submits of unknown
sessions, connections of strangers closed (at least); and how many members more joined, broke the protocol, and were told so. Ends when the test has nothing more to say.
"""

import struct
import sys
import uuid

import zmq
from raw import ACK, HELLO, LIVE, RECEIVED, REPAIR, SUBMIT, ZincClient, batch, listen, record, say, text

address = sys.argv[1]
client = ZincClient(address)
context = zmq.Context.instance()
malformed_control = malformed_submits = unknown_sessions = rejected = 0


def hello(version=3, cluster=b"\x07default", id=uuid.uuid4().bytes, epoch=0, first_open=0, next=1, token=b""):
    rest = struct.pack(">16s16sQQQQH", id, bytes(16), 0, epoch, first_open, next, len(token)) + token
    return HELLO + struct.pack(">H", version) + cluster + rest


def ack(stored=(0, 0), handled=(0, 0), confirmed=0):
    return ACK + struct.pack(">QQQQQ", *stored, *handled, confirmed)


def repair(first, last):
    return REPAIR + struct.pack(">QQ", first, last)


# On control: from strangers, one for each, and from a member.
whole = hello()
rubbish = [
    [b""],
    [b"", b""],
    [b"rubbish"],
    [bytes(range(256))],
    [b"\xff" * 1_000_000],
    [b"Y" + whole[1:]],  # another signature
    [b"Z\2" + whole[2:]],  # another version of the encodings
    [b"Z\1\xee" + whole[3:]],  # no such type
    [b"Z\1\x30" + whole[3:]],  # what a parent would say
    [whole, whole],  # two frames
    [whole + b"\0"],
    [hello(id=bytes(16))],
    [hello(cluster=b"\xff")],
    [hello(cluster=b"\x02\xff\xfe")],  # not UTF-8
    [hello(epoch=2**63)],
    [hello(next=0)],
    [hello(next=2**64 - 2)],
    [hello(first_open=1)],  # an outbox that begins behind its end
    [hello(first_open=8, next=7)],
    [hello(token=b"x" * 5000)],
    *([whole[:length]] for length in range(len(whole))),
    [b"Z\1\x21" + struct.pack(">QH", 1, 1025) + b"\0" * 1025],  # too many prefixes
    [b"Z\1\x21" + struct.pack(">QH", 1, 65535)],
    [b"Z\1\x21" + struct.pack(">QH", 1, 1) + text("line\nbreak")],
    [b"Z\1\x40"],
    [ACK],
    [ack()[:-1]],
    [ack() + b"\0"],
    [ack(stored=(2**63, 0))],
    [ack(stored=(2**62, 2**64 - 1))],
    [ack(handled=(2**62, 2**64 - 2))],
    [REPAIR],
    [repair(1, 1)[:-1]],
    [repair(0, 1)],
    [repair(2, 1)],
    [repair(1, 2**64 - 1)],
    [repair(2**64 - 2, 2**64 - 2)],
    *([b"Z\1" + bytes((kind,)) + bytes(61)] for kind in range(0x30, 0x39)),  # what a parent would say
    [b"Z\1\x01" + bytes(61)],
]
# Well-formed, and not for peers without a session to say.
unasked = [
    [LIVE + bytes(8)],
    [b"Z\1\x23"],
    [RECEIVED + bytes(8)],
    [b"Z\1\x21" + struct.pack(">QH", 1, 0)],
    [ack()],
    [repair(1, 1)],
]
for frames in rubbish + unasked:
    stranger = context.socket(zmq.DEALER)
    stranger.connect(address)
    stranger.send_multipart(frames)
    # One that does not begin with a hello is cut off at once.
    if len(frames) == 1 and frames[0].startswith(HELLO):
        malformed_control += 1
    else:
        rejected += 1
# A host reads the last of a member's subscribes alone, if several wait.
subscribes = [frames for frames in rubbish if frames[0].startswith(b"Z\1\x21")]
for frames in rubbish:
    if frames not in subscribes[:-1]:
        client.control.send_multipart(frames)
        malformed_control += 1

# On submit: in the name of a member, whose first message is one that the host knows it by, and from strangers.
good = batch(1, [record(0, payload=b"good")])
head = SUBMIT + client.session


def pusher():
    submit = context.socket(zmq.PUSH)
    submit.sndhwm = 0
    submit.connect(client.resolve(address, client.submit_name))
    return submit


submit = pusher()
for body in [
    *(good[:length] for length in range(len(good))),
    good + b"\0",
    bytes(100),
    b"\xff" * 100,
    b"\xff" * 1_000_000,
    batch(0, [record(0)]),
    batch(2**64 - 1, [record(0)]),
    batch(1, [record(0)], count=0),
    batch(1, [record(0)], count=1025),
    batch(1, [record(0)] * 1025),
    batch(1, [record(0)], count=65535),
    batch(1, [record(0)], topics=()),
    batch(1, [record(0)], topics=("a", "b")),
    batch(1, [record(0)], topic_count=65535),
    batch(1, [record(1)]),
    batch(1, [record(2**64 - 1)]),
    batch(1, [record(0)], topics=("",)),
    batch(1, [record(0)], topics=("line\nbreak",)),
    batch(1, [record(0, tag=0x04)]),
    batch(1, [record(0, tag=0x40)]),
    batch(1, [record(0, headers=b"\0")]),
    batch(1, [record(0, headers=b"\1a\0\0" * 300)]),
    batch(1, [record(0, payload=bytes(65_537))]),
    batch(1, [record(0, payload=bytes(1_500_000))]),
    batch(1, [b"\0\0\0" + b"\xff" * 9 + b"\x7f"]),  # a payload of 2^70 bytes
    batch(1, [b"\0\0\0" + b"\xff" * 9 + b"\x01"]),  # of 2^64 - 1
]:
    submit.send_multipart([head, body])
    malformed_submits += 1
for frames in [
    [b""],
    [b"rubbish"],
    [bytes(100_000)],
    [head],
    [b"", b""],
    [good, head],
    [head, good, b""],
    [b"Y" + head[1:], good],
    [b"Z\1\x20" + client.session, good],
    [head[:-1], good],
    [head + b"\0", good],
    [SUBMIT + bytes(16), good],  # no token begins with zero
]:
    submit.send_multipart(frames)
    malformed_submits += 1
for token in b"\1" * 16, b"\xff" * 16, client.session[:15] + bytes((client.session[15] ^ 1,)):
    submit.send_multipart([SUBMIT + token, good])
    submit.send_multipart([SUBMIT + token, b"whatever"])
    unknown_sessions += 2
for frames in [[b""], [b"rubbish"], [bytes(100_000)], [SUBMIT + b"\1" * 16, good], [good, head]]:
    pusher().send_multipart(frames)
    rejected += 1

# The member is none the worse for it, nor for asking for what there never was.
for first, last in (2**64 - 3, 2**64 - 3), (2**40, 2**64 - 3), (2**63, 2**63):
    client.say(repair(first, last))
client.send("vandal", b"still here")
while client.unordered():
    client.poll(1)

# What breaks the protocol ends the session of who does it.
violations = 0
for break_it in [
    lambda member: hello(id=member.id),  # a second one: malformed as well
    lambda member: RECEIVED + struct.pack(">Q", 1000),
    lambda member: RECEIVED + struct.pack(">Q", 2**64 - 1),
    lambda member: ack(stored=(member.epoch, 2**62)),
    lambda member: ack(stored=(2**62, 0)),
    lambda member: ack(stored=(member.epoch, 0), handled=(member.epoch, 1)),
]:
    member = ZincClient(address)
    member.control.send(break_it(member))
    while not member.closing:
        member.poll(1)
    if member.closing != "the session is closed, reason 4":
        sys.exit(member.closing)
    violations += 1
malformed_control += 1
say("done", malformed_control, malformed_submits, unknown_sessions, rejected, violations)
listen()
context.destroy(linger=0)
