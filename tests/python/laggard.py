"""laggard.py ADDR HOW: a member that takes in all that comes, and does not keep up. Says `joined`, and `evicted` with the reason for that.

HOW is `silent` for one that never acknowledges anything, and `idle` for one that does, but never handles anything.
"""

import sys

from raw import ZincClient, say

address, how = sys.argv[1:]


class Laggard(ZincClient):
    def acknowledge(self):
        if how == "idle":
            super().acknowledge()

    def poll(self, timeout=0):
        self.handed = self.handled  # what it was given last is not done with
        return super().poll(timeout)


client = Laggard(address)
say("joined")
while not client.closing:
    client.poll(1)
if client.evicted is None:
    sys.exit(client.closing)
say("evicted", client.evicted)
client.close()
