"""What the programs are put through while something watches their memory: all
verbs, requests that are none, a model program that lies, clients that leave.

Each part expects an outcome of each request, which is `ok` or the code of the
error: a program that a sanitizer ends shows as another one.
"""

import json
import os
import shutil
import socket

from bridge import Closed, wait_until

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "ages": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "kind": {"enum": ["yes", "no", None, 1.5]},
    },
    "required": ["name"],
    "additionalProperties": False,
}
TURNS = [
    {"role": "system", "content": "be \u00fcbershort"},
    {"role": "user", "content": "ab <s> </s>"},
]
TEMPLATE = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)
# Most bytes of a request.
LONGEST = 4096
# Seconds for a reply: valgrind makes a program 50 times slower.
PATIENCE = 300.0


def generate(**fields):
    prompt = {} if "messages" in fields else {"prompt": "ab"}
    return "GENERATE " + json.dumps({**prompt, **fields}, ensure_ascii=False)


def refused():
    """Requests that nothing is generated for."""
    return [
        ("NONSENSE " + "x" * 100, "unknown_command"),
        ("INFER", "bad_request"),
        ("INFER " + "a" * 600, "context_exceeded"),
        ("INFER " + "a" * LONGEST, "too_long"),
        ("GENERATE {", "bad_request"),
        ("GENERATE " + "[" * 2000, "bad_request"),
        (generate(prompt=1), "bad_request"),
        (generate(nonsense=1), "bad_request"),
        (generate(temperature=-1), "bad_request"),
        (generate(messages=TURNS, prompt="a"), "bad_request"),
        (generate(grammar="root ::= ("), "bad_request"),
        (generate(grammar="root ::= root"), "bad_request"),
        (generate(json_schema={"type": "nonsense"}), "bad_request"),
        (generate(json_schema={"$ref": "#/nowhere"}), "bad_request"),
        (generate(json_schema={"pattern": "(", "type": "string"}), "bad_request"),
        ("DETOKENIZE 1 x", "bad_request"),
        ("DETOKENIZE 99999", "bad_request"),
        ("SAVE ../a", "bad_request"),
        ("RESTORE nothing", "not_found"),
        ("LOAD", "bad_request"),
        ("LOAD /nonexistent.gguf", "load_failed"),
        ("LOAD /dev/null", "load_failed"),
        ("AUTH token", "ok"),
    ]


def answered():
    """Requests that a model works on."""
    choice = 'root ::= "c" [d-f]+ ("x" | "g" "h"{1,3}) | "z"'
    return [
        ("INFER ab", "ok"),
        ("infer \u00e4\u00f6\u00fc \U0001f600 a", "ok"),
        ("STREAM ab", "ok"),
        ("CHAT hello </s> a", "ok"),
        ("EMBED some text", "ok"),
        ("TOKENIZE a\u00df\U0001f600 </s>", "ok"),
        ("DETOKENIZE 100 101 230 2", "ok"),
        (generate(), "ok"),
        (generate(stream=True, max_tokens=40, stop=["klm", "uv"]), "ok"),
        (generate(messages=TURNS, max_tokens=9), "ok"),
        (generate(temperature=1.5, top_k=7, top_p=0.9, min_p=0.01, seed=3), "ok"),
        (
            generate(
                repeat_penalty=1.3,
                repeat_last_n=-1,
                presence_penalty=0.5,
                frequency_penalty=0.5,
                max_tokens=30,
            ),
            "ok",
        ),
        (generate(ignore_eos=True, cache_prompt=False, max_tokens=600), "ok"),
        (generate(grammar=choice), "ok"),
        (generate(json_schema=SCHEMA, max_tokens=60), "ok"),
        (generate(json_schema={"enum": ["yes", "no"]}, stream=True), "ok"),
        ("SAVE one", "ok"),
        ("INFER something else X", "ok"),
        ("RESTORE one", "ok"),
        ("SAVE one", "ok"),
        ("INFER ab", "ok"),
    ]


def plain():
    return [(verb, "ok") for verb in ("PING", "STATUS", "INFO", "HELP", "METRICS")]


def outcome(reply):
    return reply["code"] if reply["status"] == "error" else reply["status"]


def expect(verdict, reply, expected, request):
    """Whether a reply is the one that belongs to a request."""
    got = outcome(reply)
    shown = request if len(request) <= 60 else request[:60] + "..."
    verdict.expect(got == expected, f"{shown}: {got}, not {expected}: {reply}"[:400])


def netstring(request):
    data = request.encode()
    return b"%d:%s," % (len(data), data)


def put(verdict, bridge, rows):
    """Each request when the one before it is answered, then all of them at once, as netstrings."""
    client = bridge.connect(PATIENCE)
    for request, expected in rows:
        expect(verdict, client.ask(request), expected, request)
    client.socket.settimeout(PATIENCE)
    client.socket.sendall(b"".join(netstring(request) for request, _ in rows))
    for request, expected in rows:
        # One blank separates verb and argument here as well, so nothing changes.
        expect(verdict, client.reply()[0], expected, request)
    client.close()
    return 2 * len(rows)


def send_bytes(verdict, bridge, data, expected):
    """Sends bytes and no more, and expects these outcomes, and then the end."""
    client = bridge.connect(PATIENCE)
    client.socket.sendall(data)
    client.socket.shutdown(socket.SHUT_WR)
    outcomes = []
    try:
        while True:
            outcomes.append(outcome(client.reply()[0]))
    except Closed:
        pass
    verdict.expect(outcomes == expected, f"{data[:40]!r}: {outcomes}, not {expected}")
    client.close()


def broken(verdict, bridge):
    """Bytes that are no requests, and ends in the middle."""
    rows = [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"PING\r\nPING", ["ok", "ok"]),
        (b"INFER \xff\xfe\nPING\n", ["bad_request", "ok"]),
        (b"INFER " + b"a" * (3 * LONGEST) + b"\nPING\n", ["too_long", "ok"]),
        (b"9000:INFER " + b"a" * 8994 + b",4:PING,", ["too_long", "ok"]),
        (b"7:INFER \xc3,PING\n", ["bad_request", "ok"]),
        (b"5:PING,\n", ["bad_request"]),
        (b"99999999999999999999:PING,", ["bad_request"]),
        (b"4:PI", ["bad_request"]),
        (b"\0\1\2\n", ["unknown_command"]),
        (b"PING\n" * 500, ["ok"] * 500),
    ]
    for data, expected in rows:
        send_bytes(verdict, bridge, data, expected)
    return len(rows)


def leave(bridge, times=10):
    """Clients that go in the middle of a stream, and in the middle of a request."""
    for _ in range(times):
        client = bridge.connect(PATIENCE)
        client.send(generate(stream=True, ignore_eos=True, max_tokens=400))
        client.receive()
        client.socket.sendall(b"INFER half a requ")
        client.close()
    return times


def serving(home):
    """Options of a bridge on which all verbs have an answer that is no error."""
    template = home.join("template.jinja")
    with open(template, "w", encoding="utf-8") as out:
        out.write(TEMPLATE)
    # A state of another part would be found under its name.
    shutil.rmtree(home.states, ignore_errors=True)
    os.mkdir(home.states)
    greedy = ["--temp", "0", "--model", home.model, "--state-dir", home.states]
    return [*greedy, "--chat-template-file", template]


def all_verbs(verdict, home, start):
    """All verbs, with the real model program, which is killed and taken away in between."""
    bridge = start(
        *serving(home),
        "--max-request",
        str(LONGEST),
        "--spec-ngram",
        "4",
        "--metrics-file",
        home.join("metrics"),
        "-v",
    )
    count = put(verdict, bridge, plain() + refused() + answered())
    count += broken(verdict, bridge) + leave(bridge)
    client = bridge.connect(PATIENCE)
    for pid in bridge.model_processes():
        os.kill(pid, 9)
    rows = [
        ("INFER ab", "ok"),
        (f"LOAD {home.model}", "ok"),
        ("FREE", "ok"),
        ("INFER ab", "no_model"),
        ("EMBED a", "no_model"),
        ("STATUS", "ok"),
        (f"LOAD {home.model}", "ok"),
        ("INFER ab", "ok"),
    ]
    # The death of the process may be seen before or in the request.
    wait_until("the killed process is gone", lambda: not bridge.model_processes())
    for request, expected in rows:
        expect(verdict, client.ask(request), expected, request)
    client.close()
    status = bridge.quit()
    verdict.expect(
        status == 0, f"exit status {status} after QUIT: {bridge.errors()[-2000:]}"
    )
    return count + len(rows) + 1


def closed_to_most(verdict, home, start):
    """A bridge with a token, few verbs, and a model that is unloaded at once; ended by a signal."""
    token = home.join("tokens")
    with open(token, "w", encoding="utf-8") as out:
        out.write("the-token\n")
    os.chmod(token, 0o600)
    bridge = start(
        "--model",
        home.model,
        "--auth-file",
        token,
        "--allow",
        "INFER,METRICS,STATUS",
        "--idle-unload",
        "1",
        "--model-dir",
        home.path,
        "--request-timeout",
        "60",
    )
    rows = [
        ("STATUS", "unauthenticated"),
        ("PING", "ok"),
        ("AUTH", "bad_request"),
        ("AUTH the-toke", "denied"),
    ]
    client = bridge.connect(PATIENCE)
    for request, expected in rows:
        expect(verdict, client.ask(request), expected, request)
    client.close()
    client = bridge.connect(PATIENCE)
    for request, expected in (
        ("AUTH the-token", "ok"),
        ("INFER a", "ok"),
        ("EMBED a", "denied"),
    ):
        expect(verdict, client.ask(request), expected, request)
    wait_until("the idle model is unloaded", lambda: not bridge.model_processes())
    expect(verdict, client.ask("INFER a"), "ok", "INFER a")
    bridge.process.terminate()
    status = bridge.wait()
    verdict.expect(
        status == 0, f"exit status {status} after SIGTERM: {bridge.errors()[-2000:]}"
    )
    return 8
