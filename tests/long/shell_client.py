"""What llambo is put through while something watches its memory: its commands,
what it cannot do, and a bridge that says what is no reply."""

import json
import os
import socket
import subprocess
import threading

from session import PATIENCE, SCHEMA, serving

SENTENCES = "ab\n\nc d e\n\u00e4\u00f6\u00fc\n" + "x" * 100 + "\n"


def commands(home):
    """Arguments, standard input and exit status."""
    grammar = home.join("grammar.gbnf")
    with open(grammar, "w", encoding="utf-8") as out:
        out.write('root ::= "c" [d-f]+ "g"\n')
    schema = json.dumps(SCHEMA)
    return [
        (["--version"], "", 0),
        (["--help"], "", 0),
        (["help", "map"], "", 0),
        (["--completions", "bash"], "", 0),
        (["--completions", "nonsense"], "", 2),
        (["nonsense"], "", 2),
        (["--temp", "x", "infer", "a"], "", 2),
        (["ping"], "", 0),
        (["status"], "", 0),
        (["info"], "", 0),
        (["--json", "info"], "", 0),
        (["metrics"], "", 0),
        (["ls"], "", 0),
        (["infer", "ab"], "", 0),
        (["infer"], "a\nb\n", 0),
        (["infer", "--stop", "klm", "-n", "50", "ab"], "", 0),
        (["infer", "--grammar-file", grammar, "ab"], "", 0),
        (["infer", "-j", schema, "-n", "60", "ab"], "", None),
        (["infer", "-j", "{", "ab"], "", 2),
        (["infer", "a" * 600], "", 1),
        (["infer", "--max-request", "100", "-"], "a" * 200, None),
        (["--json", "infer", "ab"], "", 0),
        (["chat", "--system", "be short", "hello a"], "", 0),
        (["embed", "some text"], "", 0),
        (["tokenize", "a\u00df"], "", 0),
        (["detokenize", "100", "101"], "", 0),
        (["detokenize", "x"], "", None),
        (["raw"], 'PING\nINFER ab\nGENERATE {"prompt":"ab","stream":true}\nNO\n', None),
        (["map", "-n", "5"], SENTENCES, None),
        (["map", "--embed", "--json"], "ab\nc\n", 0),
        (["map", "-0", "-n", "5", "--template", "<{}>"], "ab\0c\nd\0", 0),
        (["map", "--chat", "-n", "5"], "ab\nc\n", 0),
        (["save", "kept"], "", 0),
        (["restore", "kept"], "", 0),
        (["restore", "nothing"], "", 1),
        (["load", "/nonexistent.gguf"], "", 1),
        (["load", home.model], "", 0),
        (["free"], "", 0),
        (["infer", "ab"], "", 1),
        (["quit"], "", 0),
        (["ping"], "", 3),
    ]


def run(verdict, command, arguments, text, expected):
    done = subprocess.run(
        [*command, *arguments],
        input=text.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    # Where no exit status is expected, any of llambo's own will do.
    right = done.returncode in (range(8) if expected is None else (expected,))
    shown = " ".join(arguments)[:60]
    said = done.stderr.decode(errors="replace")[-300:]
    verdict.expect(right, f"llambo {shown}: exit status {done.returncode}: {said}")


def with_a_bridge(verdict, home, command, start):
    """Each command, with a bridge that serves a model."""
    bridge = start(*serving(home))
    rows = commands(home)
    for arguments, text, expected in rows:
        run(verdict, [*command, "--socket", bridge.socket], arguments, text, expected)
    bridge.wait()
    return len(rows)


# What a bridge might say to `infer`, and the exit status that it gives.
REPLIES = [
    b"",
    b"\n",
    b"\xff\xfe\n",
    b"{}\n",
    b"[" * 5000 + b"\n",
    b'{"status":"ok"}\n',
    b'{"status":"ok","message":"m","data":7}\n',
    b'{"status":"ok","message":"m","data":"\\ud83d"}\n',
    b'{"status":"partial","message":"token","data":"a"}\n',
    b'{"status":"partial","message":"token","data":"a"}\n' * 300 + b'{"status":"ok"',
    b'{"status":"error","message":"\\u001b[2J","code":"bored"}\n',
    b'{"status":"error","message":"m","code":"model_died"}\n',
    b'{"status":"nonsense","message":"' + b"a" * 300000 + b'"}\n',
]


def with_a_liar(verdict, home, command):
    """`infer`, `embed` and `map`, with a bridge that says this and hangs up."""
    path = home.join("lying-socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(PATIENCE)
    count = 0

    def reply(data):
        client, _ = listener.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(data)

    for data in REPLIES:
        for arguments in (["infer", "ab"], ["embed", "ab"], ["--json", "info"]):
            thread = threading.Thread(target=reply, args=(data,), daemon=True)
            thread.start()
            run(verdict, [*command, "--socket", path], arguments, "", None)
            # One that did not connect leaves it waiting.
            thread.join(1)
            count += 1
    listener.close()
    os.unlink(path)
    return count
