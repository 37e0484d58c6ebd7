"""lossy.py ADDR SHARE TOTAL [PREFIX]...: a member that loses much of what comes and goes, and does what the protocol says about it.

It loses every third broadcast that carries messages, and each that is about `end`; and every fifth batch of its own but the last. Says
`joined` with its id, sends SHARE messages at the word `go`, prints TOTAL messages of anyone in the order in which they come, says
`lost` and how many broadcasts and batches that were, and leaves at the next word.
"""

import sys

from raw import HEARTBEAT, FilteredClient, ZincClient, listen, say


class Lossy:
    came = lost_broadcasts = lost_batches = 0
    loses = spares = False

    def on_broadcast(self, lane, body):
        if self.number is not None and lane != self.barrier and body[:3] != HEARTBEAT:
            self.came += 1
            if self.came % 3 == 0 or b"\3end" in body or lane == b"Tend":
                self.lost_broadcasts += 1
                return
        super().on_broadcast(lane, body)

    def send_batch(self, body, count):
        self.loses = self.next_origin_seq % 5 == 0 and not self.spares
        super().send_batch(body, count)
        self.loses = False

    def submit_batch(self, body):
        if self.loses:
            self.lost_batches += 1
        else:
            super().submit_batch(body)


class LossyClient(Lossy, ZincClient):
    pass


class LossyFilteredClient(Lossy, FilteredClient):
    pass


address, share, total, *prefixes = sys.argv[1:]
share, total = int(share), int(total)
client = LossyFilteredClient(address, *prefixes) if prefixes else LossyClient(address)
say("joined", client.id.hex())
listen()
sent = seen = 0
while seen < total or client.unordered():
    if sent < share and client.unordered() < 20:
        sent += 1
        client.spares = sent == share
        client.send("t", b"%d" % sent)
    for event, message in client.poll(0 if sent < share else 1):
        if event == "reset" or client.closing:
            sys.exit(f"{event} before {message}, {client.closing}")
        seen += 1
        say(message.epoch, message.seq, message.origin.hex(), message.origin_seq, message.topic, message.payload.decode())
    if client.closing:
        sys.exit(client.closing)
say("lost", client.lost_broadcasts, client.lost_batches)
listen()
client.close()
