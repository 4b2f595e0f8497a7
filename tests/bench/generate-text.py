#!/usr/bin/env python3
"""Compares GENERATE of the bridge with /completion of llama.cpp's own llama-server.

    LLAMA_SERVER=/path/to/llama-server tests/bench/generate-text.py [MODEL]

The top of greedy-text.py says what MODEL is by default and how llama-server is
built. Both programs get the same ten requests, greedy ones with stop strings,
penalties, grammars, schemas and ignore_eos, field for field. The texts and the
reasons for which they ended are compared; all that differ are printed, then
equal/total. Exit status 0 when the comparison ran.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile


def neighbour(name):
    """The script of this name beside this one, as a module."""
    path = pathlib.Path(__file__).with_name(name)
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


greedy = neighbour("greedy-text.py")

LIST = r'root ::= ("- " [^\n]+ "\n"){3}'
SUM = r"""
root ::= term (("+" | "-") term)* "=" number "\n"
term ::= number (("*" | "/") number)?
number ::= [1-9] [0-9]{0,2}
"""
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colour": {"enum": ["red", "green", "blue"]},
    },
    "required": ["name", "age", "colour"],
    "additionalProperties": False,
}

# All but max_tokens are called the same in both programs.
REQUESTS = [
    {"prompt": "The capital of France is", "max_tokens": 32, "stop": ["."]},
    {"prompt": "One, two, three, four,", "max_tokens": 48, "stop": ["ten", "nine, "]},
    {"prompt": "Q: Why is the sky blue?\nA:", "max_tokens": 64, "stop": ["\nQ:", "\n\n"]},
    {"prompt": "My favourite fruits are", "max_tokens": 64, "repeat_penalty": 1.3},
    {"prompt": "The sea, the sea, the sea", "max_tokens": 64,
     "repeat_penalty": 1.15, "repeat_last_n": 16},
    {"prompt": "Once upon a time", "max_tokens": 64,
     "presence_penalty": 0.6, "frequency_penalty": 0.4},
    {"prompt": "Three things to pack for the beach:\n", "max_tokens": 64, "grammar": LIST},
    {"prompt": "A sum that is right: ", "max_tokens": 24, "grammar": SUM, "frequency_penalty": 0.5},
    {"prompt": "A person as JSON: ", "max_tokens": 64, "json_schema": PERSON},
    {"prompt": "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n",
     "max_tokens": 40, "ignore_eos": True, "repeat_penalty": 1.1, "stop": "goodbye"},
]

REASONS = {"eos": "stop", "word": "stop", "limit": "length"}


def server_answer(path, request):
    """The text of llama-server and why it ended, in the bridge's words."""
    body = dict(request, temperature=0, cache_prompt=False)
    body["n_predict"] = body.pop("max_tokens")
    if isinstance(body.get("stop"), str):
        body["stop"] = [body["stop"]]
    answer = greedy.server_request(path, "POST", "/completion", json.dumps(body))
    return answer["content"], REASONS.get(answer["stop_type"], answer["stop_type"])


def bridge_answer(client, request):
    """The text of the bridge and why it ended."""
    body = json.dumps(dict(request, temperature=0, cache_prompt=False))
    client.socket.sendall(f"GENERATE {body}\n".encode())
    reply = json.loads(client.replies.readline())
    if reply["status"] != "ok":
        raise OSError(f"bridge: {reply['message']}")
    return reply["data"], reply["finish_reason"]


def compare(work, model, server_program, bridge_program):
    shared = ["-m", model, "-c", greedy.CONTEXT, "-t", greedy.THREADS]
    server_path, bridge_path = str(work / "server.sock"), str(work / "bridge.sock")
    processes = []
    try:
        log = work / "server.log"
        command = [server_program, *shared, "-np", 1, "--no-ui", "--host", server_path]
        server = greedy.start(command, log)
        processes.append(server)
        health = lambda: greedy.server_request(server_path, "GET", "/health")
        greedy.wait_until(health, server, log)
        expected = [server_answer(server_path, request) for request in REQUESTS]
        # Its threads would disturb the bridge's.
        server.terminate()
        server.wait()

        log = work / "bridge.log"
        bridge = greedy.start([bridge_program, *shared, "-s", bridge_path], log)
        processes.append(bridge)
        client = greedy.wait_until(lambda: greedy.Bridge(bridge_path), bridge, log)
        answers = [bridge_answer(client, request) for request in REQUESTS]
        return list(zip(REQUESTS, expected, answers))
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def main():
    server_program = os.environ.get("LLAMA_SERVER")
    if not server_program:
        sys.exit("LLAMA_SERVER is not set; the top of greedy-text.py says how to build it")
    bridge_program = greedy.ROOT / "target/release/llama-cpp-bridge"
    if not bridge_program.exists():
        sys.exit(f"{bridge_program} is not built: inferno/deploy.sh build-bridge")
    if len(sys.argv) > 1:
        model = sys.argv[1]
    else:
        fetch = [greedy.ROOT / "inferno/deploy.sh", "fetch-model"]
        model = subprocess.run(fetch, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="generate-text.") as directory:
        rows = compare(pathlib.Path(directory), model, server_program, bridge_program)
    for request, expected, answer in rows:
        if answer != expected:
            print(f"request:      {request}\nllama-server: {expected}\nbridge:       {answer}\n")
    equal = sum(answer == expected for _, expected, answer in rows)
    print(f"{equal}/{len(rows)} answers to GENERATE and /completion are equal")


if __name__ == "__main__":
    main()
