"""zmtp_peer.py: one libzmq socket that does what the test says. Orders come as lines of JSON, and each is answered by one.

A frame is its octets in hexadecimal or, where it is long, [FIRST, LENGTH]: octets that count up from FIRST, modulo 251.
"""

import json
import os
import select
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

PATIENCE = 60
CYCLE = bytes(range(251))
SHORT = 64


def counting(first, length):
    return (CYCLE * (length // len(CYCLE) + 2))[first : first + length]


def read(written):
    return bytes.fromhex(written) if isinstance(written, str) else counting(*written)


def write(frame):
    if len(frame) <= SHORT:
        return frame.hex()
    first = frame[0] % len(CYCLE)
    return [first, len(frame)] if frame == counting(first, len(frame)) else f"spoilt: {frame[:SHORT].hex()}"


class Peer:
    def __init__(self):
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 16_000)
        self.socket = self.events = None
        self.crowd = []

    def open(self, kind, bind=(), connect=(), subscribe=(), monitor=False, **options):
        """A new socket, in place of the one before. The answer has the endpoints that were bound."""
        self.close()
        self.socket = self.context.socket(getattr(zmq, kind))
        self.socket.setsockopt(zmq.SNDTIMEO, PATIENCE * 1000)
        if kind == "ROUTER":
            self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value.encode() if isinstance(value, str) else value)
        if monitor:
            self.events = self.socket.get_monitor_socket()
        for prefix in subscribe:
            self.socket.subscribe(read(prefix))
        self.connect(connect)
        return self.bind(bind)

    def bind(self, endpoints):
        bound = []
        for endpoint in endpoints:
            # Whoever was bound there was ended just now.
            until = time.monotonic() + PATIENCE
            while True:
                try:
                    self.socket.bind(endpoint)
                    break
                except zmq.ZMQError as error:
                    if error.errno != zmq.EADDRINUSE or time.monotonic() > until:
                        raise
                    time.sleep(0.01)
            bound.append(self.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        return {"bound": bound}

    def connect(self, endpoints):
        for endpoint in endpoints:
            self.socket.connect(endpoint)

    def close(self, linger=0):
        if self.events is not None:
            self.socket.disable_monitor()
            self.events = None
        if self.socket is not None:
            self.socket.close(linger)
        self.socket = None

    def subscribe(self, prefix):
        self.socket.subscribe(read(prefix))

    def unsubscribe(self, prefix):
        self.socket.unsubscribe(read(prefix))

    def send(self, frames):
        """A router waits until there is a peer of the identity."""
        until = time.monotonic() + PATIENCE
        frames = [read(frame) for frame in frames]
        while True:
            try:
                self.socket.send_multipart(frames, copy=False)
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH or time.monotonic() > until:
                    raise
                time.sleep(0.002)

    def recv(self):
        if not self.socket.poll(PATIENCE * 1000):
            raise TimeoutError("nothing came")
        return {"frames": [write(frame) for frame in self.socket.recv_multipart()]}

    def take(self, most, wait):
        """What is there, or comes first within so many milliseconds."""
        messages = []
        if self.socket.poll(wait):
            while len(messages) < most:
                try:
                    messages.append([write(frame) for frame in self.socket.recv_multipart(zmq.DONTWAIT)])
                except zmq.Again:
                    break
        return {"messages": messages}

    def flood(self, topics, rounds=20):
        """Publishes to all topics, over and over, until there is another order. Each message has its round's number."""
        topics, number = [read(topic) for topic in topics], 0
        while not select.select([sys.stdin], [], [], 0.001)[0]:
            for _ in range(rounds):
                number += 1
                for topic in topics:
                    self.socket.send_multipart([topic, b"%d" % number])
        return {"rounds": number}

    def echo(self):
        """Sends back what comes, until there is another order."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(sys.stdin, zmq.POLLIN)
        count = 0
        while sys.stdin.fileno() not in (ready := dict(poller.poll())):
            if self.socket in ready:
                self.socket.send_multipart(self.socket.recv_multipart(copy=False), copy=False)
                count += 1
        return {"count": count}

    def until(self, event):
        """Waits for an event of the socket's monitor."""
        wanted, until = getattr(zmq, f"EVENT_{event}"), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.events.poll(100) and recv_monitor_message(self.events)["event"] == wanted:
                return {}
        raise TimeoutError(event)

    def gather(self, count, endpoint, kind="SUB"):
        """So many more sockets, connected and subscribed to everything."""
        for _ in range(count):
            one = self.context.socket(getattr(zmq, kind))
            one.setsockopt(zmq.LINGER, 0)
            if kind == "SUB":
                one.subscribe(b"")
            one.connect(endpoint)
            self.crowd.append(one)


def main():
    peer = Peer()
    # Unbuffered, so that select tells of every line that was not read.
    orders = os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    for line in iter(orders.readline, b""):
        order = json.loads(line)
        answer = getattr(peer, order.pop("order"))(**order)
        print(json.dumps(answer or {}), flush=True)
    peer.context.destroy(linger=0)


main()
