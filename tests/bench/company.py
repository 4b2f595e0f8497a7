#!/usr/bin/env python3
"""Times bridges that share the machine: with each other, and with a busy process.

    tests/bench/company.py MODEL [ROUNDS]

MODEL is best one in Q4_0, which `llama-quantize --allow-requantize IN.gguf
OUT.gguf Q4_0` makes of another. BRIDGE names another bridge than
target/release/llama-cpp-bridge, and OPTIONS more options for it. With
LLAMA_SERVER=/path/to/llama-server, llama-server does the same after it.

Every row is the decode rate, in tokens a second, of servers that all generate
at once without an end, with as many threads as they like. It is counted while
all of them are at work, and ROUNDS times (3); what is printed is the median,
and its ratio to the row of one server alone. `least` is the smallest part of
the sum that one of them had. The last row is of a server after its company
has gone: the tokens until eight in a row come as quickly as alone (at least 0.9
of that rate), and the rate of the 50 tokens after those.

Nothing else may be at work meanwhile.
"""

import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BRIDGE = os.environ.get("BRIDGE", str(REPOSITORY / "target/release/llama-cpp-bridge"))
PROMPT = "Once upon a time"
# Seconds that a row is counted for, and those before, in which all of them find their pace.
COUNTED, BEFORE = 2.5, 1.5
CONTEXT = 4096


class Server:
    """A server with the model loaded, and a connection on which it generates."""

    def __init__(self, path, command, model):
        self.path = path
        self.process = subprocess.Popen(
            command(path, model),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.times = []
        self.stop = False
        while not self.ready():
            if self.process.poll() is not None:
                sys.exit(f"{command(path, model)[0]} ended with {self.process.returncode}")
            time.sleep(0.1)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self.path)
        return connection

    def work(self):
        """Generates until told to stop, and notes when each token came."""
        self.times, self.stop = [], False
        while not self.stop:
            with self.connect() as connection:
                connection.sendall(self.request())
                for line in connection.makefile("rb"):
                    if self.is_token(line):
                        self.times.append(time.monotonic())
                    if self.stop or self.is_end(line):
                        break

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Bridge(Server):
    @staticmethod
    def command(path, model):
        options = os.environ.get("OPTIONS", "").split()
        return [BRIDGE, "-s", path, "-m", model, "-c", str(CONTEXT), "--temp", "0", *options]

    def __init__(self, path, model):
        super().__init__(path, self.command, model)

    def ready(self):
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def request(self):
        fields = {"prompt": PROMPT, "max_tokens": 400, "stream": True, "ignore_eos": True}
        return b"GENERATE %s\n" % json.dumps(fields).encode()

    def is_token(self, line):
        return b'"token"' in line

    def is_end(self, line):
        if b'"status":"error"' in line:
            sys.exit(f"bridge: {line.decode()}")
        return not self.is_token(line)


class LlamaServer(Server):
    @staticmethod
    def command(path, model):
        return [os.environ["LLAMA_SERVER"], "--host", path, "-m", model, "-c", str(CONTEXT)]

    def __init__(self, path, model):
        super().__init__(path, self.command, model)

    def ready(self):
        try:
            with self.connect() as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return b"200 OK" in connection.recv(100)
        except OSError:
            return False

    def request(self):
        fields = {"prompt": PROMPT, "n_predict": 400, "stream": True, "ignore_eos": True}
        body = json.dumps(fields | {"temperature": 0, "cache_prompt": True}).encode()
        head = "POST /completion HTTP/1.0\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def is_token(self, line):
        return line.startswith(b"data:") and b'"stop":false' in line

    def is_end(self, line):
        return b'"stop":true' in line


def together(servers, seconds=COUNTED):
    """The rates of servers that work at once."""
    workers = [threading.Thread(target=server.work) for server in servers]
    for worker in workers:
        worker.start()
    time.sleep(BEFORE)
    start = time.monotonic()
    time.sleep(seconds)
    end = time.monotonic()
    rates = [sum(start <= t < end for t in list(s.times)) / (end - start) for s in servers]
    for server in servers:
        server.stop = True
    for worker in workers:
        worker.join()
    return rates


def beside_busy(server):
    busy = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        return together([server])
    finally:
        busy.kill()
        busy.wait()


def after_company(server, other, alone):
    """Tokens until a server is as quick as alone, and its rate from then on."""
    first = threading.Thread(target=server.work)
    second = threading.Thread(target=other.work)
    first.start()
    second.start()
    time.sleep(BEFORE)
    other.stop = True
    second.join()
    # The other one notices at its next token that nobody listens any more.
    gone = time.monotonic() + 0.02
    time.sleep(1.5)
    server.stop = True
    first.join()
    times = [t for t in server.times if t >= gone]
    for at in range(len(times) - 58):
        if 8 / (times[at + 8] - times[at]) >= 0.9 * alone:
            return at, 50 / (times[at + 58] - times[at + 8])
    return len(times), 0.0


def measure(kind, model, rounds):
    with tempfile.TemporaryDirectory() as folder:
        servers = [kind(f"{folder}/{number}.sock", model) for number in range(3)]
        rows = {"alone": [], "two": [], "three": [], "beside a busy process": []}
        back, after = [], []
        try:
            for _ in range(rounds):
                rows["alone"].append(together(servers[:1]))
                rows["two"].append(together(servers[:2]))
                rows["three"].append(together(servers))
                rows["beside a busy process"].append(beside_busy(servers[0]))
                alone = statistics.median(sum(rates) for rates in rows["alone"])
                tokens, rate = after_company(servers[0], servers[1], alone)
                back.append(tokens)
                after.append(rate / alone)
        finally:
            for server in servers:
                server.end()
    for name, rounds_of in rows.items():
        sums = [sum(rates) for rates in rounds_of]
        least = min(min(rates) / sum(rates) for rates in rounds_of)
        ratio = statistics.median(sums) / alone
        part = f"  least {least:.2f}" if len(rounds_of[0]) > 1 else ""
        print(f"{name:24}{statistics.median(sums):8.1f} tok/s  ratio {ratio:.2f}{part}", flush=True)
    print(f"{'back at full speed':24}{max(back):8} tokens at the most"
          f"  ratio {statistics.median(after):.2f}", flush=True)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print("bridge", flush=True)
    measure(Bridge, sys.argv[1], rounds)
    if "LLAMA_SERVER" in os.environ:
        print("llama-server", flush=True)
        measure(LlamaServer, sys.argv[1], rounds)


if __name__ == "__main__":
    main()
