"""xsub.py ADDR: an XSUB that sends what it likes to the PUB socket at ADDR, and says `sent` when it has received a window."""

import sys

import zmq
from raw import listen, record, say, window

socket = zmq.Context.instance().socket(zmq.XSUB)
socket.sndhwm = socket.rcvhwm = 0
socket.connect(sys.argv[1])
forged = window(2**40, 1000, 1000, [record(0, 0, payload=b"forged")])
for frames in [
    [b""],
    [b"rubbish"],
    [b"\xff" * 1_000_000],
    [b"\1"],
    [b"\1W"],
    [b"\0never subscribed"],
    [b"\1" + b"x" * 256],  # A longer one ends the connection, and libzmq makes it again for ever.
    [b"\1\xff\xfe"],
    [b"W", forged],
    [b"W", b"rubbish"],
    [b"I", b""],
    [b"B0123456789abcdef", bytes(27)],
    [forged],
    [b"\2", b"\1", b"\0"],
]:
    socket.send_multipart(frames)
# What was sent before this subscription has arrived when it works.
socket.send(b"\1W")
while socket.recv_multipart()[0] != b"W":
    pass
say("sent")
listen()
