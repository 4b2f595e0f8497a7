"""The programs that table.py compares, started on sockets of their own: how they
are asked, what they answer, and what memory they take. Used by table.py."""

import ctypes
import http.client
import json
import mmap
import os
import pathlib
import re
import socket
import subprocess
import time

START_LIMIT = 120  # seconds
ANSWER_LIMIT = 300  # seconds


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, as llama-server offers it."""

    def __init__(self, path):
        super().__init__("localhost", timeout=ANSWER_LIMIT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Program:
    """A program that serves one model, started here. `answer` gives the tokens of
    the prompt and the text, and fails where other than `tokens` tokens came."""

    def __init__(self, command, log):
        self.log = pathlib.Path(log)
        self.begin = time.perf_counter()
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        while not self.ready():
            if self.process.poll() is not None or time.perf_counter() - self.begin > START_LIMIT:
                self.stop()
                raise OSError(f"{command[0]} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.001)

    def memory(self):
        """Its proportional memory in MiB, all its processes together."""
        total = 0
        for pid in process_tree(self.process.pid):
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)[1])
        return total / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Bridge(Program):
    """llama-cpp-bridge, at its defaults but for the context."""

    name = "bridge"

    def __init__(self, program, model, context, path, options=()):
        self.path = str(path)
        command = [program, "-s", path, "-m", model, "-c", context, "--idle-timeout", 86400, *options]
        super().__init__(command, f"{path}.log")

    def ready(self):
        if "listening on" not in self.log.read_text():
            return False
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER_LIMIT)
        self.socket.connect(self.path)
        self.replies = self.socket.makefile("rb")
        return True

    def leave(self):
        """Closes the connection, so that another client has its turn."""
        self.replies.close()
        self.socket.close()

    def ask(self, *requests):
        """The replies to requests that are sent without waiting for each."""
        lines = [request.encode() for request in requests]
        self.socket.sendall(b"".join(b"%d:%s," % (len(line), line) for line in lines))
        replies = [json.loads(self.replies.readline()) for _ in requests]
        for reply in replies:
            if reply["status"] != "ok":
                raise OSError(f"bridge: {reply['message']}")
        return replies

    def answer(self, prompt, tokens, **fields):
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **fields}
        [reply] = self.ask("GENERATE " + json.dumps(body))
        if "json_schema" not in fields and reply["completion_tokens"] != tokens:
            raise OSError(f"bridge: {reply['completion_tokens']} tokens instead of {tokens}")
        return reply["prompt_tokens"], reply["completion_tokens"], reply["data"]

    def embed(self, texts):
        return self.ask(*(f"EMBED {text}" for text in texts))

    def text_of(self, source, tokens):
        """The first so many tokens of a text, as text."""
        [reply] = self.ask(f"TOKENIZE {source}")
        ids = " ".join(map(str, reply["tokens"][:tokens]))
        return self.ask(f"DETOKENIZE {ids}")[0]["data"]


class Server(Program):
    """llama-server, at its defaults but for context and threads."""

    def __init__(self, name, program, model, context, path, options=()):
        self.name, self.path = name, str(path)
        threads = len(os.sched_getaffinity(0))
        command = [program, "-m", model, "-c", context, "-t", threads, "--no-ui", "--host", path, *options]
        super().__init__(command, f"{path}.log")

    def ready(self):
        try:
            return bool(self.request("GET", "/health"))
        except (OSError, http.client.HTTPException):
            return False

    def request(self, method, where, body=None):
        # A connection for each, as it closes one after 5 s without a request.
        connection = UnixConnection(self.path)
        connection.request(method, where, body and json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise OSError(f"{self.name}: {response.status} {content[:200]!r}")
        return json.loads(content)

    def answer(self, prompt, tokens, **fields):
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True,
                "cache_prompt": True, **fields}
        reply = self.request("POST", "/completion", body)
        if "json_schema" not in fields and reply["tokens_predicted"] != tokens:
            raise OSError(f"{self.name}: {reply['tokens_predicted']} tokens instead of {tokens}")
        return reply["tokens_evaluated"], reply["tokens_predicted"], reply["content"]

    def embed(self, texts):
        return self.request("POST", "/v1/embeddings", {"input": texts})


def process_tree(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task")
    children = [int(c) for task in tasks.iterdir() for c in (task / "children").read_text().split()]
    return [pid, *(below for child in children for below in process_tree(child))]


def forget(path):
    """Has the system drop a file from its cache. Returns the part that stays, 0 to 1."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(file.fileno()).st_size
        pages = -(-size // mmap.PAGESIZE)
        # A private mapping, so that its address can be had; nothing is written.
        view = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE)
        start = (ctypes.c_char * size).from_buffer(view)
        state = (ctypes.c_ubyte * pages)()
        call = ctypes.CDLL(None, use_errno=True).mincore
        if call(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), state):
            raise OSError(ctypes.get_errno(), "mincore")
        del start
        view.close()
    return sum(page & 1 for page in state) / pages
