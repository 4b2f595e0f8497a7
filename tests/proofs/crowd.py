#!/usr/bin/env python3
"""Connects many clients to a bridge at once, of which some leave at random moments.

    crowd.py SOCKET CLIENTS LEAVING SEED

The bridge has a model that says the next letters of the alphabet. Every client that stays must get
all its replies; one that leaves does so before a request, in it, or after some of its replies, which
must be right. Exit status 0 if all that holds.
"""

import random
import resource
import selectors
import socket
import sys
import time

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LIMIT = 60


def ok(message, *pieces):
    """A reply that has these texts, which need no escapes."""
    return f'{{"status":"ok","message":"{message}"' + "".join(pieces)


class Client:
    def __init__(self, path, number, chance, leaves):
        letter = number % 26
        rest = ALPHABET[letter + 1 :]
        asked = [f"PING\nINFER {ALPHABET[letter]}\n", f"STREAM {ALPHABET[letter]}\nPING\n"]
        pong = ok("pong") + "}"
        done = ok("Inference completed", f',"data":"{rest}"')
        pieces = [f'{{"status":"partial","message":"token","data":"{piece}"}}' for piece in rest]
        self.asked = "".join(asked).encode()
        # Statistics follow the text of a stream.
        self.expected = [pong, done + "}", *pieces, done + ",", pong]
        # How many lines it takes before it leaves.
        self.most = len(self.expected)
        if leaves:
            cut = chance.choice([0, chance.randint(0, len(self.asked)), len(self.asked)])
            whole = cut == len(self.asked)
            self.asked = self.asked[:cut]
            self.most = chance.choice([0, chance.randint(0, self.most)]) if whole else 0
        self.lines = 0
        self.rest = b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(path)
        self.socket.sendall(self.asked)

    def read(self):
        """Takes what has come, and says whether it is done."""
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit(f"the bridge has closed a connection after {self.lines} lines")
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            expected = self.expected[self.lines]
            if not line.decode().startswith(expected):
                raise SystemExit(f"expected {expected}\nbut got {line.decode()}")
            self.lines += 1
        return self.done()

    def done(self):
        return self.lines >= self.most


def main():
    path, count, leaving, seed = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    chance = random.Random(int(seed))
    leavers = set(chance.sample(range(int(count)), int(leaving)))
    selector = selectors.DefaultSelector()
    clients = []
    # All are there before the first is read.
    for number in range(int(count)):
        clients.append(Client(path, number, chance, number in leavers))
    for client in clients:
        if client.done():
            client.socket.close()
        else:
            selector.register(client.socket, selectors.EVENT_READ, client)
    deadline = time.monotonic() + LIMIT
    while selector.get_map():
        ready = selector.select(deadline - time.monotonic())
        if not ready:
            raise SystemExit(f"{len(selector.get_map())} clients have waited {LIMIT} s in vain")
        for key, _ in ready:
            if key.data.read():
                selector.unregister(key.fileobj)
                key.fileobj.close()
    print(f"{len(clients) - len(leavers)} clients were answered, {len(leavers)} have left")


if __name__ == "__main__":
    main()
