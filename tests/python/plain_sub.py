"""plain_sub.py ADDR: a bare SUB on the broadcast channel at ADDR, subscribed to W. Prints all records up to topic `end`."""

import sys

import zmq
from raw import HEARTBEAT, parse_window, say

socket = zmq.Context.instance().socket(zmq.SUB)
socket.rcvhwm = 0
socket.connect(sys.argv[1])
socket.subscribe(b"W")
last = None
while True:
    lane, body = socket.recv_multipart()
    if body[:3] == HEARTBEAT:
        continue
    number, messages = parse_window(body)
    if lane != b"W" or last not in (None, number - 1):
        sys.exit(f"window {number} on lane {lane} after {last}")
    last = number
    for message in messages:
        say(message.seq, message.origin.hex(), message.origin_seq, message.topic, message.payload.decode())
    if messages[-1].topic == "end":
        break
