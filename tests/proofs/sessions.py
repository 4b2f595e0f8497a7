#!/usr/bin/env python3
"""Runs random sessions with a bridge, and compares every reply with what protocol.py foretells.

    sessions.py BRIDGE MODELS FIRST[-LAST]:REQUESTS

BRIDGE is the program, MODELS the directory that sessions.rs writes, FIRST and LAST are seeds, and
REQUESTS is how many requests a session of each has. Of a session in which something else came, it
prints seed, request and reply, and the fewest requests that show it; the exit status is 1 then. A
thousand requests or more are all sent before a reply is waited for.
"""

import json
import os
import pathlib
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import protocol
import random_requests
import toy

LIMIT = 60
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "{{- message.role }}: {{ message.content }}\n"
    "{%- if not loop.last %}{{ eos_token }}{% endif %}\n"
    "{%- endfor %}"
)


def shown(text):
    """The beginning of a text that may be long."""
    text = str(text)
    return text if len(text) <= 1500 else f"{text[:1500]}... ({len(text)} characters)"


class Difference(Exception):
    """Something came that was not foretold: this kind of reply."""

    def __init__(self, text, kind=""):
        super().__init__(text)
        self.kind = kind


class Plan:
    """A session as it was thought up: settings, and the requests of each connection."""

    def __init__(self, seed, count, models):
        self.seed = seed
        self.random = random.Random(seed)
        choice = self.random.choice
        # So many are sent together, on one connection.
        self.deep = count >= 1000
        tokens = ["secret", "other"] if choice([False] * 5 + [True]) else None
        self.settings = {
            "parallel": choice([1, 3, 8]),
            "context": choice([64, 128, 512]),
            "max_tokens": choice([3, 8, 40, -1]),
            "seed": choice([None, 42]),
            "template": choice([True, True, False]),
            "states": choice([True, True, False]),
            "allowed": choice(
                [None] * 5 + [["INFER", "STREAM", "STATUS", "GENERATE", "LOAD", "CHAT"]]
            ),
            "tokens": tokens,
            "max_request": choice([4 << 20, 4 << 20, 1024, 2048]),
            "confined": choice([False, False, True]),
            "draft": choice([0, 0, 16]),
        }
        self.model = choice(sorted(models.toys) + [None])
        names = sorted(models.toys)
        no_models = [models.directory, models.directory / "models.json"]
        bad = ["/nonexistent", "nonexistent.gguf", *map(str, no_models)]
        if self.settings["confined"]:
            names += [pathlib.Path(name).name for name in names]
            bad += ["/etc/passwd", "../models.json"]
        self.source = random_requests.Requests(
            self.random, self.settings, {"good": names, "bad": bad}
        )
        self.connections = []
        while count > 0:
            size = count if self.deep else min(count, choice([1, 3, 10, 30, 100]))
            self.connections.append(self.connection(size))
            count -= size

    def connection(self, size):
        """(how it ends, a seed for how it is cut, the requests)"""
        asked = [self.source.request() for _ in range(size)]
        # A client that has left may have taken the model with it.
        before = self.connections[-1][0] if self.connections else ""
        if self.random.random() < (0.9 if before == "leave" else 0.2):
            path = self.random.choice(self.source.paths["good"])
            asked.insert(0, f"LOAD {path}\n".encode())
        if self.settings["tokens"]:
            asked.insert(self.random.choice([0] * 9 + [min(2, size)]), b"AUTH secret\n")
        end = self.random.choice(["half", "half", "leave", "read"])
        if self.deep:
            end = "half"
        if end == "half":
            asked.append(self.source.last())
        return end, self.random.random(), asked

    def options(self, home):
        """The command line, and what it needs in this directory."""
        settings = self.settings
        options = ["--threads", "1", "--threads-batch", "1", "--temp", "0"]
        options += ["--parallel", settings["parallel"], "--ctx-size", settings["context"]]
        options += [
            "--max-tokens",
            settings["max_tokens"],
            "--max-request",
            settings["max_request"],
        ]
        options += ["--spec-ngram", settings["draft"], "--idle-timeout", LIMIT]
        if settings["seed"] is not None:
            options += ["--seed", settings["seed"]]
        if settings["template"]:
            (home / "template").write_text(TEMPLATE)
            options += ["--chat-template-file", home / "template"]
        if settings["states"]:
            (home / "states").mkdir()
            options += ["--state-dir", home / "states"]
        if settings["allowed"]:
            options += ["--allow", ",".join(settings["allowed"])]
        if settings["tokens"]:
            (home / "tokens").touch(mode=0o600)
            (home / "tokens").write_text("\n".join(settings["tokens"]))
            options += ["--auth-file", home / "tokens"]
        if settings["confined"]:
            options += ["--model-dir", self.source.paths["bad"][2]]
        if self.model:
            options += ["--model", self.model]
        return [str(option) for option in options]


class Models:
    """What sessions.rs has written."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        known = json.loads((self.directory / "models.json").read_text())
        self.toys = {
            str(self.directory / f"{name}.gguf"): toy.Toy(model["pairs"], model["poison"])
            for name, model in known.items()
        }


class Connection:
    """A client that sends and reads at once."""

    def __init__(self, path, expected):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.expected = expected
        self.received = b""
        self.pieces = []
        self.answered = 0
        self.sent = 0
        self.ended = False

    def work(self, data, until, what):
        """Sends all of `data` and reads what comes, until this holds."""
        deadline = time.monotonic() + LIMIT
        while data or not until():
            if self.ended:
                if until():
                    return
                raise Difference(f"the connection ended, instead of {what}")
            wanted = [self.socket] if data else []
            left = deadline - time.monotonic()
            readable, writable, _ = select.select([self.socket], wanted, [], max(left, 0))
            if left <= 0:
                raise Difference(f"in {LIMIT} s did not come {what}")
            if writable:
                try:
                    count = self.socket.send(data)
                except OSError:
                    count = len(data)
                data = data[count:]
                self.sent += count
            if readable:
                self.read()

    def read(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.ended = not data
        *lines, self.received = (self.received + data).split(b"\n")
        for line in lines:
            self.take(line.decode())

    def take(self, line):
        """Compares a line with what was expected."""
        if self.answered == len(self.expected):
            raise Difference(f"more than was expected:\n  {line}")
        if line.startswith('{"status":"partial"'):
            piece = json.loads(line)["data"]
            whole = {"status": "partial", "message": "token", "data": piece}
            if line != json.dumps(whole, ensure_ascii=False, separators=(",", ":")):
                raise Difference(f"a piece of another form:\n  {line}")
            self.pieces.append(piece)
            return
        reply = self.expected[self.answered]
        early = self.sent < reply.end and not reply.early
        fault = "nothing before the request" if early else reply.fault(self.pieces, line)
        if fault:
            came = shown(f"{self.pieces}, {line}")
            raise Difference(f"got:\n  {came}\nexpected {shown(fault)}", line[:50])
        self.pieces = []
        self.answered += 1


def converse(path, bridge, connection):
    """Has a connection with the bridge, of which the model foretells the replies."""
    end, cut_seed, asked = connection
    cuts = random.Random(cut_seed)
    data = b"".join(asked)
    before = None if bridge.states is None else dict(bridge.states)
    expected = bridge.connection(data)
    client = Connection(path, expected)
    # Now and then each reply is waited for, or nothing is until the end.
    waits = cuts.choice([0, 0.1, 1]) if len(asked) < 1000 else 0
    longest = cuts.choice([1, 40, 400, 100000]) if len(data) < 20000 else 100000
    try:
        at = 0
        while at < len(data):
            size = cuts.randint(1, longest)
            piece, at = data[at : at + size], min(at + size, len(data))
            due = sum(reply.end <= at for reply in expected) if cuts.random() < waits else 0
            # What the end of the connection makes a request is no request before it.
            due = min(due, len(expected) - (at == len(data) and not data.endswith(b"\n")))
            client.work(piece, lambda: client.answered >= due, "a reply")
        if end == "half":
            if not client.ended:
                client.socket.shutdown(socket.SHUT_WR)
            client.work(b"", lambda: client.ended, "the end")
        elif end == "read":
            client.work(b"", lambda: client.answered == len(expected), "a reply")
        if end == "half" and client.answered < len(expected):
            raise Difference("the connection ended instead of a reply")
    except Difference as difference:
        number = client.answered
        start = expected[number - 1].end if number else 0
        request = data[start : expected[number].end] if number < len(expected) else b"(nothing)"
        text = f"reply {number} of {len(expected)}, to {shown(request)}\n{difference}"
        raise Difference(text, difference.kind) from difference
    finally:
        client.socket.close()
    if end == "leave":
        bridge.left(before)
    return len(expected)


def run(program, plan, models, connections):
    """Runs a session and gives back how many requests were answered."""
    home = pathlib.Path(tempfile.mkdtemp(prefix="llama-cpp-bridge-session-"))
    path = home / "socket"
    command = [program, "--socket", path, *plan.options(home)]
    log = open(home / "log", "w+")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        if process.stdout.readline() != f"listening on {path}\n":
            raise Difference(f"it does not start: {(home / 'log').read_text()}")
        toys = dict(models.toys)
        if plan.settings["confined"]:
            toys |= {pathlib.Path(name).name: toy for name, toy in toys.items()}
        bridge = protocol.Bridge(plan.settings, toys, plan.model)
        count = sum(converse(path, bridge, connection) for connection in connections)
        allowed = plan.settings["allowed"]
        if plan.settings["tokens"] is None and allowed is None:
            converse(path, bridge, ("half", 0, [b"QUIT\n"]))
        else:
            process.terminate()
        status = process.wait(LIMIT)
        if status != 0 or path.exists():
            raise Difference(f"the bridge ended with {status}: {(home / 'log').read_text()}")
        return count
    except Difference as difference:
        text = f"{difference}\nThe bridge: {command[3:]}, {process.poll()}"
        raise Difference(text, difference.kind) from None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()
        shutil.rmtree(home)


def shrunk(program, plan, models, kind):
    """The fewest requests found that show a difference of this kind, and what it then is."""
    best, told = plan.connections, None

    def differs(connections):
        nonlocal best, told
        try:
            run(program, plan, models, connections)
            return False
        except Difference as difference:
            if difference.kind != kind:
                return False
            best, told = connections, difference
            return True

    deadline = time.monotonic() + 20
    for size in [512, 256, 128, 64, 32, 16, 8, 4, 2, 1]:
        number = 0
        while number < len(best) and time.monotonic() < deadline:
            end, cut, asked = best[number]
            others = best[:number], best[number + 1 :]
            if differs(others[0] + others[1]):
                continue
            at = 0
            while at < len(best[number][2]) and time.monotonic() < deadline:
                asked = best[number][2]
                fewer = end, cut, asked[:at] + asked[at + size :]
                at += 0 if differs(others[0] + [fewer] + others[1]) else size
            number += 1
    return best, told


def main():
    program, directory, which = sys.argv[1:]
    seeds, count = which.split(":")
    first, _, last = seeds.partition("-")
    models = Models(directory)
    answered = 0
    for seed in range(int(first), int(last or first) + 1):
        plan = Plan(seed, int(count), models)
        try:
            answered += run(program, plan, models, plan.connections)
        except Difference as difference:
            print(f"seed {seed}: {difference}")
            connections, told = shrunk(program, plan, models, difference.kind)
            print(f"\nIt takes {shown(told and connections)}:\n{told or 'it does not come again'}")
            return 1
    print(f"{answered} requests as foretold, of seeds {seeds}")
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
