#!/usr/bin/env python3
"""Compares greedy text of the bridge with that of llama.cpp's own llama-server.

    LLAMA_SERVER=/path/to/llama-server tests/bench/greedy-text.py [MODEL]

MODEL is by default what `inferno/deploy.sh fetch-model` prints. Both programs
run on Unix sockets of their own, with the same number of threads and the same
context; each continues ten prompts by 64 tokens at temperature 0. Prints every
text that differs, then equal/total. Exit status 0 when the comparison ran.

README.md beside this file says how llama-server is built. The texts can only be
equal if it is with the flags that .cargo/config.toml gives to the bridge:

    cmake -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \\
        -DBUILD_SHARED_LIBS=OFF -DCMAKE_C_FLAGS=-U__AVX512FP16__ \\
        -DCMAKE_CXX_FLAGS="-U__AVX512FP16__ -fno-dse"
"""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = 64
CONTEXT = 2048
THREADS = len(os.sched_getaffinity(0))
START_LIMIT = 60  # seconds until a server has to be ready

# No two begin alike: nothing of one prompt is in the cache for the next.
PROMPTS = [
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "def fibonacci(n):",
    "Water boils at",
    "My grandmother's recipe for apple cake:",
    "In 1969, the first human",
    "Q: Why is the sky blue?\nA:",
    "<|im_start|>user\nTell me about AI<|im_end|>\n<|im_start|>assistant\n",
    "Les avantages de l'énergie solaire sont",
    "Dear Sir or Madam, I am writing to",
]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as llama-server offers it."""

    def __init__(self, path):
        super().__init__("localhost", timeout=600)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def server_request(path, method, where, body=None):
    connection = UnixConnection(path)
    connection.request(method, where, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise OSError(f"llama-server: {answer.status} {content[:200]!r}")
    return json.loads(content)


def server_text(path, prompt):
    request = {
        "prompt": prompt,
        "n_predict": TOKENS,
        "temperature": 0,
        "cache_prompt": False,
    }
    return server_request(path, "POST", "/completion", json.dumps(request))["content"]


class Bridge:
    """A connection to the bridge."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(600)
        self.socket.connect(path)
        self.replies = self.socket.makefile("r", encoding="utf-8")

    def text(self, prompt):
        request = f"INFER {prompt}".encode()
        self.socket.sendall(b"%d:%s," % (len(request), request))
        reply = json.loads(self.replies.readline())
        if reply["status"] != "ok":
            raise OSError(f"bridge: {reply['message']}")
        return reply["data"]


def wait_until(ready, process, log):
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended at the start:\n{log.read_text()[-2000:]}")
        try:
            return ready()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args[0]} was not ready within {START_LIMIT} s")


def start(arguments, log):
    with log.open("w") as out:
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )


def compare(work, model, server_program, bridge_program):
    shared = ["-m", model, "-c", CONTEXT, "-t", THREADS]
    server_path, bridge_path = str(work / "server.sock"), str(work / "bridge.sock")
    processes = []
    try:
        log = work / "server.log"
        server = start([server_program, *shared, "-np", 1, "--no-ui", "--host", server_path], log)
        processes.append(server)
        wait_until(lambda: server_request(server_path, "GET", "/health"), server, log)
        expected = [server_text(server_path, prompt) for prompt in PROMPTS]
        # Its threads would disturb the bridge's.
        server.terminate()
        server.wait()

        log = work / "bridge.log"
        bridge = start([bridge_program, *shared, "-s", bridge_path, "--temp", 0, "-n", TOKENS], log)
        processes.append(bridge)
        client = wait_until(lambda: Bridge(bridge_path), bridge, log)
        return list(zip(PROMPTS, expected, map(client.text, PROMPTS)))
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def main():
    server_program = os.environ.get("LLAMA_SERVER")
    if not server_program:
        sys.exit("LLAMA_SERVER is not set; the top of this file says how to build it")
    bridge_program = ROOT / "target/release/llama-cpp-bridge"
    if not bridge_program.exists():
        sys.exit(f"{bridge_program} is not built: inferno/deploy.sh build-bridge")
    if len(sys.argv) > 1:
        model = sys.argv[1]
    else:
        fetch = [ROOT / "inferno/deploy.sh", "fetch-model"]
        model = subprocess.run(fetch, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="greedy-text.") as directory:
        rows = compare(pathlib.Path(directory), model, server_program, bridge_program)
    for prompt, expected, text in rows:
        if text != expected:
            print(f"prompt:       {prompt!r}\nllama-server: {expected!r}\nbridge:       {text!r}\n")
    equal = sum(text == expected for _, expected, text in rows)
    print(f"{equal}/{len(rows)} greedy texts of {TOKENS} tokens are equal")


if __name__ == "__main__":
    main()
