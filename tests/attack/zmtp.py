"""ZMTP 3.1 with the NULL mechanism over raw sockets: what a peer says byte by byte, and one connection.

No ZeroMQ library, since one keeps to rules that an attacker does not keep.
"""

import select
import socket
import struct
import time

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
MORE, LONG, COMMAND = 1, 2, 4
# Linux picks the local port at connect, so that each source address has all ports for each port of the host.
IP_BIND_ADDRESS_NO_PORT = 24
# A close that resets leaves no port in TIME_WAIT, where an attacker would run out of them.
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def frame(body, flags=0):
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def message(*frames):
    *first, last = frames
    return b"".join(frame(body, MORE) for body in first) + frame(last)


def command(name, body=b""):
    return frame(bytes((len(name),)) + name + body, COMMAND)


def ready(kind, identity=b""):
    properties = b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    if identity:
        properties += b"\x08Identity" + struct.pack(">I", len(identity)) + identity
    return command(b"READY", properties)


def subscribe(prefix):
    return command(b"SUBSCRIBE", prefix)


def cancel(prefix):
    return command(b"CANCEL", prefix)


def new_socket(source=None):
    """A non-blocking TCP socket without delay; `source` is the local address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if source:
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
    return sock


def reset(sock):
    """Closes a socket at once, and drops what it has not sent."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    except OSError:
        pass
    sock.close()


def await_any(sockets, events, timeout):
    """Waits for any of `events` on sockets, and returns those that have some."""
    poll = select.poll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number in by_number:
        poll.register(number, events)
    return [by_number[number] for number, _ in poll.poll(max(0.0, timeout) * 1000)]


class Closed(ConnectionError):
    """The host has closed the connection."""


class Peer:
    """One connection to a socket of the host. Its greeting and READY go out at once, without waiting for the host's.

    `send` puts messages into a buffer and writes what the system takes; `receive` gives the messages that are there. Neither waits.
    """

    def __init__(self, address, kind, identity=b"", source=None, words=b"", timeout=5.0):
        self.sock = new_socket(source)
        self.inbound, self.outbound = bytearray(), bytearray(GREETING + ready(kind, identity) + words)
        self.greeted, self.frames, self.commands = False, [], []
        try:
            self.sock.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self.sock.close()
            raise
        if not await_any([self.sock], select.POLLOUT, timeout):
            self.sock.close()
            raise TimeoutError("the connection was not accepted")
        self.flush()

    def fileno(self):
        return self.sock.fileno()

    def send(self, *frames):
        self.put(message(*frames))

    def put(self, octets):
        self.outbound += octets
        self.flush()

    def flush(self):
        """Writes what the system takes. Whether that is all."""
        try:
            while self.outbound:
                del self.outbound[: self.sock.send(self.outbound)]
        except BlockingIOError:
            return False
        except OSError as error:
            raise Closed(str(error)) from None
        return True

    def receive(self):
        """The messages that have come, each a list of frames. `Closed` once there are none and the host has closed."""
        closed = False
        try:
            while chunk := self.sock.recv(1 << 18):
                self.inbound += chunk
                if len(self.inbound) > 1 << 22:
                    break
            else:
                closed = True
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        messages = self._parse()
        if closed and not messages:
            raise Closed("the host has closed the connection")
        return messages

    def _parse(self):
        at, messages = 0, []
        if not self.greeted and len(self.inbound) >= len(GREETING):
            self.greeted, at = True, len(GREETING)
        while self.greeted and len(self.inbound) >= at + 2:
            flags, head = self.inbound[at], 9 if self.inbound[at] & LONG else 2
            if len(self.inbound) < at + head:
                break
            size = int.from_bytes(self.inbound[at + 1 : at + head], "big")
            if len(self.inbound) < at + head + size:
                break
            body = bytes(self.inbound[at + head : at + head + size])
            at += head + size
            if flags & COMMAND:
                self.commands.append(body)
                continue
            self.frames.append(body)
            if not flags & MORE:
                messages.append(self.frames)
                self.frames = []
        del self.inbound[:at]
        return messages

    def wait(self, timeout):
        """Waits until something has come."""
        return bool(await_any([self.sock], select.POLLIN, timeout))

    def next_message(self, timeout):
        """The next messages, or none when the time is over. `Closed` when the host has closed."""
        deadline = time.monotonic() + timeout
        while True:
            if messages := self.receive():
                return messages
            if not self.wait(deadline - time.monotonic()):
                return []

    def close(self):
        self.sock.close()

    def reset(self):
        reset(self.sock)
