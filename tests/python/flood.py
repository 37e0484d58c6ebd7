"""flood.py ADDR SHARE TOTAL [PREFIX]...: joins, sends SHARE messages, prints TOTAL messages in the order in which they come.

Says `joined` with its id, and begins to send at the word `go`. At most 20,000 messages, and 800 batches, are under way.
SHARE is a multiple of 50.
"""

import collections
import sys

from raw import FilteredClient, ZincClient, batch, listen, record, say

TOPICS = [f"t{i}" for i in range(8)]
BATCH, MOST_MESSAGES, MOST_BATCHES = 50, 20_000, 800

address, share, total, *prefixes = sys.argv[1:]
share, total = int(share), int(total)
client = FilteredClient(address, *prefixes) if prefixes else ZincClient(address)
say("joined", client.id.hex())
listen()

under_way = collections.deque()
seen = 0
while seen < total or client.unordered():
    while under_way and under_way[0] <= client.ordered:
        under_way.popleft()
    while client.next_origin_seq <= share and client.unordered() + BATCH <= MOST_MESSAGES and len(under_way) < MOST_BATCHES:
        first = client.next_origin_seq
        many = range(first, first + BATCH)
        records = [record(i % 8, payload=b"%d" % i) for i in many]
        client.send_batch(batch(first, records, TOPICS), len(many))
        under_way.append(many[-1])
    lines = []
    for event, message in client.poll(1):
        if event == "reset" or client.closing:
            sys.exit(f"{event} before {message}, {client.closing}")
        lines.append(f"{message.epoch} {message.seq} {message.origin.hex()} {message.origin_seq} {message.topic} {message.payload.decode()}")
    seen += len(lines)
    if lines:
        say("\n".join(lines))
if seen != total:
    sys.exit(f"{seen} messages instead of {total}")
client.close()
