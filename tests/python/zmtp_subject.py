"""zmtp_subject.py TYPE [OPTION=NUMBER ...]: a libzmq socket under test, bound to a port that the kernel chooses.

Says `bound PORT`; then `message HEX ...` for each message that it receives, a word for each frame (`-` for an empty one). It is told
`subscribe HEX`, `unsubscribe HEX` and `send HEX ...`. It ends with its standard input.
"""

import sys
import threading

import zmq
from raw import say


def words(frames):
    return " ".join(frame.hex() or "-" for frame in frames)


def frames(texts):
    return [bytes.fromhex(text.replace("-", "")) for text in texts]


kind, *options = sys.argv[1:]
context = zmq.Context.instance()
socket = context.socket(getattr(zmq, kind))
for option in options:
    name, value = option.split("=")
    socket.setsockopt(getattr(zmq, name), int(value))
port = socket.bind_to_random_port("tcp://127.0.0.1")

# The socket belongs to one thread: what comes on standard input reaches it by way of another socket.
orders = context.socket(zmq.PULL)
orders.bind("inproc://orders")


def listen():
    teller = context.socket(zmq.PUSH)
    teller.connect("inproc://orders")
    for line in sys.stdin:
        teller.send_string(line)
    teller.send_string("end")


threading.Thread(target=listen, daemon=True).start()
say("bound", port)
poller = zmq.Poller()
poller.register(orders, zmq.POLLIN)
if kind not in ("PUB", "PUSH"):
    poller.register(socket, zmq.POLLIN)
while True:
    ready = dict(poller.poll())
    if orders in ready:
        order, *rest = orders.recv_string().split()
        if order == "end":
            break
        if order in ("subscribe", "unsubscribe"):
            socket.setsockopt(getattr(zmq, order.upper()), *frames(rest))
            say("done")
        elif order == "send":
            socket.send_multipart(frames(rest))
            say("sent")
    if socket in ready:
        say("message", words(socket.recv_multipart()))
context.destroy(linger=0)
