"""A stand-in for the model program, that speaks the wire and lies: what a bridge
is put through by a model process that was taken over.

It is a script. What it does in place of loading, and of the first request, are
two more scripts beside it, which a row changes before the bridge starts it again.
"""

import json
import subprocess

from bridge import program
from session import PATIENCE, expect

READY = {
    "description": "none",
    "architecture": "none",
    "parameters": 1,
    "size_bytes": 1,
    "context_size": 8,
    "training_context_size": 8,
    "embedding_size": 1,
    "vocabulary_size": 1,
    "chat_template": False,
}
SEED = 7
# The number of the request, in the script that answers it.
ID = "${id}"
DONE = {
    "text": "a",
    "finish_reason": "stop",
    "prompt_tokens": 1,
    "cached_tokens": 0,
    "completion_tokens": 1,
    "prompt_ms": 1,
    "completion_ms": 1,
    "seed": SEED,
}


def line(kind, number, content):
    return f"{kind} {number} {json.dumps(content)}"


def say(*lines):
    """A script that writes these lines, in which the shell puts the number of the request."""
    return "cat >&3 <<END\n" + "\n".join(lines) + "\nEND\n"


def done(**changes):
    return line("done", ID, {**DONE, **changes})


def endless(start, byte):
    return f"printf '%s' \"{start}\" >&3; tr '\\0' '{byte}' >&3 </dev/zero"


def lies():
    """A request, and messages of which each ends the process that says it."""
    return [
        (
            "INFER w",
            [
                done(prompt_ms=1e300),
                done(prompt_ms=-1),
                done(completion_ms=None),
                done(prompt_tokens=9),
                done(prompt_tokens=1 << 32),
                done(cached_tokens=2),
                done(seed=8),
                done(finish_reason="bored"),
                done(text=None),
                done(more=[[[[]]]]),
                line("done", f"{ID}0", DONE),
                "done -1 {}",
                f"done {ID} " + "[" * 50000,
                "",
                "nonsense",
                "done",
                f"done {ID}",
                f"done {ID} {{",
                f'done {ID} "\\ud800"',
                line("text", ID, "a"),
                line("tokens", ID, [1]),
                line("more_tokens", ID, [0]),
                line("embedding", ID, {"values": [1], "prompt_tokens": 1}),
                line("state", ID, {"tokens": 1, "bytes": 1}),
                line("failed", ID, {"code": "model_died", "message": "a"}),
                line("failed", ID, {"code": "bored", "message": "a"}),
                line("notice", 0, "a"),
                line("refused", 0, "a"),
                line("hello", 0, {"version": "1", "build": "2"}),
                line("ready", 0, READY),
                line("busy", 0, -1),
            ],
        ),
        (
            "STREAM w",
            [
                line("piece", ID, ""),
                line("piece", f"{ID}0", "a"),
                "\n".join([line("piece", ID, "\u00e4")] * 10),
                line("more_values", ID, [1.5]),
            ],
        ),
        (
            "EMBED w",
            [
                line("embedding", ID, {"values": [1, 2], "prompt_tokens": 1}),
                line("embedding", ID, {"values": [], "prompt_tokens": 1}),
                f'embedding {ID} {{"values":[1e999],"prompt_tokens":1}}',
                line("more_values", ID, [1, 2]),
            ],
        ),
        (
            "TOKENIZE w",
            [
                line("tokens", ID, [1]),
                line("tokens", ID, [-1]),
                line("more_tokens", ID, []),
            ],
        ),
        ("DETOKENIZE 0", [line("tokens", ID, [0]), line("text", ID, 5)]),
    ]


def acts():
    """A request, what the process does then, and what the request is answered."""
    for request, messages in lies():
        for message in messages:
            yield request, say(message), "model_died"
    yield "INFER w", say(done()), "ok"
    yield "STREAM w", say(line("piece", ID, "a"), done(text="")), "ok"
    failed = {"code": "context_exceeded", "message": "\u0007 too long"}
    yield "INFER w", say(line("failed", ID, failed)), "context_exceeded"
    yield "INFER w", "printf 'no newline' >&3; exit 3", "model_died"
    yield "INFER w", "exec 0<&- 3>&-; exit 17", "model_died"
    yield "INFER w", "kill -SEGV $$", "model_died"
    yield "INFER w", endless("", "a"), "model_died"
    yield "INFER w", endless(f'done {ID} {{\\"text\\":\\"', "\\\\"), "model_died"
    yield "INFER w", "cat /dev/zero >&3", "model_died"
    yield "INFER w", f"yes '{line('busy', 0, 1)}' >&3", "model_died"
    yield "STREAM w", f'yes "piece {ID} \\"a\\"" >&3', "model_died"
    yield "INFER w", "head -c 100000 /dev/urandom >&2; exit 4", "model_died"
    # Silence, which --stall-timeout ends.
    yield "INFER w", "exec sleep 600", "timeout"


def loads():
    """What the process does in place of loading, and what LOAD is answered."""
    ready = line("ready", 0, READY)
    for change in (
        {"context_size": 0},
        {"context_size": 1 << 20},
        {"parameters": -1},
        {"description": "\u001b[2J" + "x" * 6000},
        {"vocabulary_size": 1 << 31},
    ):
        expected = "ok" if "description" in change else "load_failed"
        yield say(line("ready", 0, {**READY, **change})), expected
    yield say(line("busy", 0, 1), ready), "load_failed"
    yield say(line("piece", 1, "a"), ready), "load_failed"
    yield say(line("refused", 0, "because \u001b[2J")), "load_failed"
    yield say(*[line("notice", 0, "a\u001b")] * 40, ready), "load_failed"
    yield say("ready 0 {"), "load_failed"
    yield "exit 5", "load_failed"
    yield say(line("notice", 0, "a"), ready), "ok"


class Liar:
    """The stand-in in a home."""

    def __init__(self, home):
        self.loading = home.script("loading", "")
        self.serving = home.script("serving", "")
        # As in `llama-cpp-bridge-model 0.2.0 (build 0123456789abcdef)`.
        command = [program("llama-cpp-bridge-model"), "--version"]
        words = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        _, version, _, build = words.stdout.split()
        hello = {"version": version, "build": build.rstrip(")")}
        text = "exec 3>&0\n" + say(line("hello", 0, hello))
        text += f"read -r bridge; read -r load\n. {self.loading}\n"
        text += f"read -r kind id request\n. {self.serving}\nread -r end\n"
        self.path = home.script("liar", text)

    def load(self, text):
        write(self.loading, text)

    def serve(self, text):
        write(self.serving, text)


def write(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text + "\n")


def misbehaviour(verdict, home, start):
    """A bridge whose model process lies, floods, is silent or dies, once for each row."""
    liar = Liar(home)
    options = [
        "--model-program",
        liar.path,
        "--seed",
        str(SEED),
        "--stall-timeout",
        "5",
    ]
    bridge = start(*options, "-v")
    client = bridge.connect(PATIENCE)
    count = 0
    for text, expected in loads():
        liar.load(text)
        expect(verdict, client.ask(f"LOAD {home.model}"), expected, text)
        client.ask("FREE")
        count += 2
    liar.load(say(line("ready", 0, READY)))
    expect(verdict, client.ask(f"LOAD {home.model}"), "ok", "LOAD")
    for request, text, expected in acts():
        liar.serve(text)
        # What the process of the row before was started with is no longer there.
        expect(verdict, client.ask("FREE"), "ok", "FREE")
        expect(verdict, client.ask(f"LOAD {home.model}"), "ok", "LOAD")
        client.send(request)
        expect(verdict, client.reply()[0], expected, f"{request}: {text}")
        expect(verdict, client.ask("PING"), "ok", "PING")
        count += 4
    client.close()
    status = bridge.quit()
    verdict.expect(status == 0, f"exit status {status} of the bridge of the liar")
    return count
