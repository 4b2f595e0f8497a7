"""What the proofs in this directory share: a home, a bridge, clients, a verdict."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tiny

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = os.path.join(
    os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release"
)

# Long enough for a busy machine. What takes longer is taken to hang.
LIMIT = 60.0
# Between two looks at something that does not tell when it changes.
PAUSE = 0.002

SKIPPED = 77


class Closed(Exception):
    """The connection ended before the reply."""


class Late(Exception):
    """Something took longer than its limit."""


def program(name):
    """The path of a program of ours, which has to be built."""
    path = os.path.join(PROGRAMS, name)
    if not os.access(path, os.X_OK):
        sys.exit(f"{path} is missing: cargo build --release")
    return path


def wait_until(what, happens, limit=LIMIT):
    """Waits until something happens, and returns what that is."""
    end = time.monotonic() + limit
    while True:
        value = happens()
        if value:
            return value
        if time.monotonic() > end:
            raise Late(f"not within {limit:g} s: {what}")
        time.sleep(PAUSE)


class Home:
    """A directory of a proof's own, with a model; it ends with the proof."""

    def __init__(self, context=512):
        self.path = tempfile.mkdtemp(prefix="bridge-long-")
        self.model = tiny.write(self.join("tiny.gguf"), context)
        self.states = self.join("states")
        os.mkdir(self.states)

    def join(self, name):
        return os.path.join(self.path, name)

    def script(self, name, text):
        """An executable shell script."""
        path = self.join(name)
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
        return path

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


class Client:
    """A client that waits for each reply no longer than a limit."""

    def __init__(self, path, limit=LIMIT):
        self.limit = limit
        self.taken = b""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(limit)
        self.socket.connect(path)

    def send(self, *requests):
        """Sends requests that take a line each."""
        try:
            self.socket.sendall("".join(f"{line}\n" for line in requests).encode())
        except socket.timeout:
            raise Late("the requests are not taken") from None
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self):
        """The next line, as an object."""
        end = time.monotonic() + self.limit
        while b"\n" not in self.taken:
            left = end - time.monotonic()
            if left <= 0:
                raise Late(f"no reply within {self.limit:g} s")
            self.socket.settimeout(left)
            try:
                piece = self.socket.recv(1 << 16)
            except socket.timeout:
                continue
            except OSError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed("end of file")
            self.taken += piece
        line, self.taken = self.taken.split(b"\n", 1)
        return json.loads(line)

    def reply(self):
        """The replies to a request: the last one, with the pieces before it."""
        pieces = []
        while True:
            reply = self.receive()
            if reply["status"] != "partial":
                return reply, pieces
            pieces.append(reply["data"])

    def ask(self, request):
        """Asks, and returns the last reply."""
        self.send(request)
        return self.reply()[0]

    def close(self):
        self.socket.close()


class Bridge:
    """A bridge in the background, with its socket in a home."""

    def __init__(self, home, *options, before=(), log="log"):
        self.socket = home.join("socket")
        self.log = home.join(log)
        command = [*before, program("llama-cpp-bridge"), "--socket", self.socket]
        with open(self.log, "wb") as errors:
            self.process = subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.pid = self.process.pid

    def ready(self, limit=LIMIT):
        """Whether it serves, which it says in a line, or ends instead."""
        with self.process.stdout as output:
            os.set_blocking(output.fileno(), False)
            said = b""

            def heard():
                nonlocal said
                said += output.read() or b""
                return b"\n" in said or self.process.poll() is not None

            wait_until("the bridge serves or ends", heard, limit)
        return said.startswith(b"listening on ")

    def connect(self, limit=LIMIT):
        return Client(self.socket, limit)

    def errors(self):
        """What it wrote to standard error."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()

    def wait(self, limit=LIMIT):
        """Its exit status, below 0 for a signal, once it has ended."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Late(f"the bridge runs after {limit:g} s") from None

    def model_processes(self):
        return children(self.pid)

    def quit(self):
        """Has it end, and returns its exit status."""
        client = self.connect()
        client.ask("QUIT")
        client.close()
        return self.wait()

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def serving(home, *options, **others):
    """A bridge that serves."""
    bridge = Bridge(home, *options, **others)
    if not bridge.ready():
        raise RuntimeError(f"the bridge does not start: {bridge.errors()}")
    return bridge


def children(pid):
    """The children of a process with one thread."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def state_of(pid):
    """`R`, `S`, `D` and so on; `` if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Verdict:
    """What was tried and what did not hold."""

    def __init__(self, name):
        self.name = name
        self.failures = []
        self.start = time.monotonic()

    def fail(self, what):
        self.failures.append(what)
        if len(self.failures) <= 20:
            print(f"FAILED: {what}", flush=True)

    def expect(self, holds, what):
        if not holds:
            self.fail(what)

    def finish(self, summary):
        """Writes the summary as the last line, and ends the program."""
        seconds = time.monotonic() - self.start
        failed = len(self.failures)
        end = f"{failed} did not hold" if failed else "all held"
        print(f"{self.name}: {summary}; {end}; {seconds:.0f} s", flush=True)
        sys.exit(1 if failed else 0)


def skip(name, why):
    """Ends a proof that cannot be made here."""
    print(f"{name}: SKIPPED: {why}", flush=True)
    sys.exit(SKIPPED)
