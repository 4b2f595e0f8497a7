#!/usr/bin/env python3
"""Measures the bridge itself, without a model.

    tests/bench/footprint.py [PROGRAM]

Prints the size of the program, the memory of the idle bridge (all its
processes, proportional and resident), the time of a PING round trip on one
connection (10,000 of them, a client in Python), and the time from the start of
the program to the answer of the first PING (20 starts). Linux only: it reads
/proc.
"""

import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PINGS = 10_000
WARM_UP = 500
STARTS = 20
START_LIMIT = 10  # seconds


def start(program, path):
    return subprocess.Popen([program, "--socket", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(START_LIMIT)
    client.connect(path)
    return client


def ping(client):
    client.sendall(b"PING\n")
    reply = client.recv(4096)
    if reply != b'{"status":"ok","message":"pong"}\n':
        sys.exit(f"unexpected reply to PING: {reply!r}")


def stop(process):
    process.terminate()
    process.stdout.close()
    if process.wait() != 0:
        sys.exit(f"the bridge ended with status {process.returncode}")


def first_ping(program, path):
    """Seconds from the start to the first reply; asks as soon as it can connect."""
    begin = time.perf_counter()
    process = start(program, path)
    while True:
        try:
            client = connect(path)
            break
        except OSError:
            if process.poll() is not None or time.perf_counter() - begin > START_LIMIT:
                sys.exit("the bridge did not start")
    ping(client)
    taken = time.perf_counter() - begin
    client.close()
    stop(process)
    return taken


def process_tree(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task")
    children = [int(c) for t in tasks.iterdir() for c in (t / "children").read_text().split()]
    return [pid, *(p for child in children for p in process_tree(child))]


def memory(pid):
    """Proportional and resident kB of one process."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return [int(re.search(rf"^{key}:\s+(\d+) kB", text, re.M)[1]) for key in ("Pss", "Rss")]


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/llama-cpp-bridge"
    program = str(program)
    if not os.access(program, os.X_OK):
        sys.exit(f"{program} is not built: inferno/deploy.sh build-bridge")
    with tempfile.TemporaryDirectory(prefix="footprint.") as directory:
        path = directory + "/sock"
        starts = [first_ping(program, path) for _ in range(STARTS)]
        process = start(program, path)
        process.stdout.readline()
        client = connect(path)
        times = []
        for _ in range(WARM_UP + PINGS):
            begin = time.perf_counter()
            ping(client)
            times.append(time.perf_counter() - begin)
        processes = process_tree(process.pid)
        pss, rss = map(sum, zip(*map(memory, processes)))
        client.close()
        stop(process)
    times = sorted(times[WARM_UP:])
    print(f"program size:        {os.path.getsize(program):,} bytes")
    print(f"memory, idle:        {pss:,} kB Pss, {rss:,} kB Rss in {len(processes)} process(es)")
    print(f"PING round trip:     {statistics.median(times) * 1e6:.1f} us median, "
          f"{times[len(times) * 99 // 100] * 1e6:.1f} us 99th percentile, of {len(times):,}")
    print(f"start to first PING: {statistics.median(starts) * 1e3:.1f} ms median of {len(starts)}")


if __name__ == "__main__":
    main()
