#!/usr/bin/env python3
"""Times requests in flight beside llama.cpp's own llama-server.

    LLAMA_SERVER=/path/to/llama-server tests/bench/in-flight.py MODEL [ROUNDS]

README.md beside this file says how llama-server is built; MODEL is best one in Q4_0, which
`llama-quantize --allow-requantize IN.gguf OUT.gguf Q4_0` makes of another.
BRIDGE names another bridge than target/release/llama-cpp-bridge, and
BRIDGE_BEFORE an older one, which is then measured too, one request at a time.

Both programs run at once, on Unix sockets of their own, with the same threads
and context, llama-server with 8 slots; only one is at work at a time. In each
round all rows take their turn, so that what else happens on the machine meets
them alike. Prints medians in milliseconds, and for each row its ratio to the
one that it is compared with, which is the median of the ratios of all rounds:
above 1 is quicker than that.
"""

import concurrent.futures
import json
import os
import pathlib
import runpy
import socket
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
shared = runpy.run_path(str(HERE / "greedy-text.py"))
server_request, wait_until, start = (shared[n] for n in ("server_request", "wait_until", "start"))

PROMPTS, ANSWER, TEXTS, PINGS, SLOTS = 16, 32, 64, 2000, 8
CONTEXT = 4096
THREADS = len(os.sched_getaffinity(0))
# About 48 tokens with the number before them, which keeps the beginnings apart.
TAIL = (
    "ships left the harbour before dawn, each with a crew of twelve, a cook, a carpenter and a "
    "boy who had never seen the open sea. Tell what became of them, one after the other, and how"
)


def prompts(salt):
    return [f"{salt} {number} {TAIL}" for number in range(PROMPTS)]


def texts(salt):
    return [f"{salt} text number {number} is about the weather at sea" for number in range(TEXTS)]


class Bridge:
    """A connection to a bridge."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(600)
        self.socket.connect(str(path))
        self.replies = self.socket.makefile("rb")

    def send(self, requests):
        lines = b"".join(b"%d:%s," % (len(r), r) for r in (r.encode() for r in requests))
        self.socket.sendall(lines)

    def receive(self):
        reply = json.loads(self.replies.readline())
        if reply["status"] != "ok":
            raise OSError(f"bridge: {reply['message']}")
        return reply

    def one_by_one(self, requests):
        for request in requests:
            self.send([request])
            self.receive()

    def in_flight(self, requests):
        self.send(requests)
        for _ in requests:
            self.receive()


def generate(prompt):
    fields = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    return "GENERATE " + json.dumps(fields)


def server_generates(path, wanted):
    def ask(prompt):
        fields = {"prompt": prompt, "n_predict": ANSWER, "temperature": 0, "ignore_eos": True}
        return server_request(path, "POST", "/completion", json.dumps(fields))

    with concurrent.futures.ThreadPoolExecutor(SLOTS) as clients:
        list(clients.map(ask, wanted))


def server_embeds(path, wanted):
    answer = server_request(path, "POST", "/v1/embeddings", json.dumps({"input": wanted}))
    if len(answer["data"]) != len(wanted):
        raise OSError("llama-server: not as many embeddings as texts")


def rows(bridge, before, server, embedder):
    """For each row its title, the row that it is compared with, and what is timed."""
    table = [
        ("16 prompts, one by one", None, lambda s: bridge.one_by_one(map(generate, prompts(s)))),
        ("16 prompts, in flight", 0, lambda s: bridge.in_flight(list(map(generate, prompts(s))))),
        ("... llama-server, 8 clients", 1, lambda s: server_generates(server, prompts(s))),
        ("64 texts, one by one", None, lambda s: bridge.one_by_one(f"EMBED {t}" for t in texts(s))),
        ("64 texts, in flight", 3, lambda s: bridge.in_flight([f"EMBED {t}" for t in texts(s)])),
        ("... llama-server, a list of 64", 4, lambda s: server_embeds(embedder, texts(s))),
        ("one prompt alone", None, lambda s: bridge.one_by_one([generate(prompts(s)[0])])),
        (f"{PINGS} PINGs", None, lambda s: bridge.one_by_one(["PING"] * PINGS)),
    ]
    if before:
        table += [
            ("... one prompt, bridge before", 6,
             lambda s: before.one_by_one([generate(prompts(s)[0])])),
            (f"... {PINGS} PINGs, bridge before", 7, lambda s: before.one_by_one(["PING"] * PINGS)),
        ]
    return table


def measure(table, rounds):
    times = [[] for _ in table]
    for round_number in range(rounds + 1):
        for at, (_, _, action) in enumerate(table):
            begin = time.perf_counter()
            action(f"{round_number}.{at}")
            took = (time.perf_counter() - begin) * 1000
            if round_number:  # the first warms up
                times[at].append(took)
    return times


def show(table, times):
    print(f"{'':34}{'median ms':>10}{'min':>9}{'max':>9}{'ratio':>8}")
    for (title, other, _), mine in zip(table, times):
        ratio = ""
        if other is not None:
            ratio = f"{statistics.median(o / m for o, m in zip(times[other], mine)):.2f}"
        print(f"{title:34}{statistics.median(mine):10.1f}{min(mine):9.1f}{max(mine):9.1f}{ratio:>8}")


def launch(program, arguments, work, name, ready, processes):
    log = work / f"{name}.log"
    path = work / f"{name}.sock"
    process = start([program, *arguments(path)], log)
    processes.append(process)
    return wait_until(lambda: ready(path), process, log)


def main():
    if "LLAMA_SERVER" not in os.environ or len(sys.argv) < 2:
        sys.exit(__doc__)
    model, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7
    shared_options = ["-m", model, "-c", str(CONTEXT), "-t", str(THREADS)]
    bridge_program = os.environ.get("BRIDGE", HERE.parents[1] / "target/release/llama-cpp-bridge")
    processes = []

    def bridge_options(path):
        return [*shared_options, "-s", path, "--idle-timeout", "86400"]

    def server_ready(path):
        server_request(str(path), "GET", "/health")
        return str(path)

    with tempfile.TemporaryDirectory(prefix="in-flight.") as directory:
        work = pathlib.Path(directory)
        server_program = os.environ["LLAMA_SERVER"]
        try:
            bridge = launch(bridge_program, bridge_options, work, "bridge", Bridge, processes)
            older = os.environ.get("BRIDGE_BEFORE")
            before = older and launch(older, bridge_options, work, "before", Bridge, processes)
            server = launch(
                server_program,
                lambda path: [*shared_options, "-np", SLOTS, "--no-ui", "--host", path],
                work, "server", server_ready, processes,
            )
            embedder = launch(
                server_program,
                lambda path: [*shared_options, "-np", SLOTS, "--no-ui", "--embeddings",
                              "--pooling", "mean", "--host", path],
                work, "embedder", server_ready, processes,
            )
            table = rows(bridge, before, server, embedder)
            show(table, measure(table, rounds))
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
