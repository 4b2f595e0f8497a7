#!/usr/bin/env python3
"""Prints a table: the bridge beside llama.cpp's own llama-server.

    LLAMA_SERVER=/path/to/llama-server tests/bench/table.py [OPTIONS] MODEL...

    --rows NAME,...        these rows only (--list names them)
    --server NAME=PATH     a further llama-server, compared in columns of its own
    --seconds N            how long a row of one model may take turns (default 15)
    --list                 the rows

README.md beside this file says what it needs and how to read it. BRIDGE names
another bridge than target/release/llama-cpp-bridge, LLAMA_COMPLETION a
llama-completion for the row `shell`.
"""

import getopt
import os
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import about
import peers
import together

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = pathlib.Path(os.environ.get("BRIDGE", ROOT / "target/release/llama-cpp-bridge"))
CONTEXT = 4096
WORDS = (
    "the of and to in a is that for it as was with be by on not he this are or his from at which "
    "but have an had they you were their one all we can her has there been if more when will would "
    "who so no ship harbour carpenter morning winter letter river window garden answer captain "
    "machine number village mountain bread music question paper silver engine theatre island"
).split()
SCHEMA = {"type": "array", "minItems": 40, "items": {"type": "object", "additionalProperties": False,
          "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}}


class Bench:
    """The programs at work on one model, and what was found out about it."""

    def __init__(self, servers, model, work, seconds):
        self.servers, self.model, self.work, self.seconds = servers, model, work, seconds
        self.running, self.started = [], 0
        self.texts = {}

    def path(self):
        self.started += 1
        return self.work / f"{self.started}.sock"

    def start(self, which, context=CONTEXT, options=()):
        """Starts program number `which`: 0 is the bridge."""
        if which == 0:
            return peers.Bridge(PROGRAM, self.model, context, self.path())
        name, program = self.servers[which - 1]
        return peers.Server(name, program, self.model, context, self.path(), options)

    def all(self):
        """All programs, started at the first call."""
        while len(self.running) <= len(self.servers):
            self.running.append(self.start(len(self.running)))
        return self.running

    def stop(self):
        for program in self.running:
            program.stop()
        self.running = []

    def text(self, salt, tokens):
        """About so many tokens of text that begins like no other."""
        words = random.Random(str(salt)).choices(WORDS, k=2 * tokens)
        return self.all()[0].text_of(" ".join(words), tokens)

    def turns(self, action):
        """What action(program, turn) returns, a list for each program, in turns."""
        programs, results, end = self.all(), [], time.monotonic() + self.seconds
        longest = 0
        while not results or time.monotonic() + longest < end and len(results) < 30:
            begin = time.monotonic()
            # Who comes first changes.
            order = range(len(programs)) if len(results) % 2 == 0 else reversed(range(len(programs)))
            turn = {at: action(programs[at], len(results)) for at in order}
            results.append([turn[at] for at in range(len(programs))])
            longest = max(longest, time.monotonic() - begin)
        # The first warms up, where there is time for that.
        return list(zip(*(results[1:] if len(results) > 3 else results)))


def timed(action):
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def decode(bench, depth):
    """Tokens a second behind a prompt that is in the cache: the time of 72 less that of 8."""
    prompt = bench.text(f"depth {depth}", depth)
    for program in bench.all():
        program.answer(prompt, 8)

    def once(program, _):
        short, long = (timed(lambda n=n: program.answer(prompt, n))[0] for n in (8, 72))
        return 64 / (long - short)

    return bench.turns(once), "tok/s"


def prompt(bench, tokens):
    """Tokens of a new prompt evaluated in a second."""
    texts = {}

    def once(program, turn):
        text = texts.setdefault(turn, bench.text(f"prompt {tokens} {turn}", tokens))
        seconds, (evaluated, _, _) = timed(lambda: program.answer(text, 1))
        return evaluated / seconds

    return bench.turns(once), "tok/s"


def short(bench):
    """A whole request: a new prompt of 24 tokens, an answer of 32."""
    texts = {}

    def once(program, turn):
        text = texts.setdefault(turn, bench.text(f"short {turn}", 24))
        return timed(lambda: program.answer(text, 32))[0] * 1000

    return bench.turns(once), "ms"


def turn(bench):
    """The second turn of a conversation of 2,000 tokens: 24 more, an answer of 16."""
    texts = {}

    def once(program, number):
        text = texts.setdefault(number, bench.text(f"conversation {number}", 2000))
        more = texts.setdefault(-1, bench.text("second turn", 24))
        _, _, said = program.answer(text, 16)
        return timed(lambda: program.answer(f"{text}{said}\n{more}", 16))[0] * 1000

    return bench.turns(once), "ms"


def schema(bench):
    """Tokens a second of an answer bound by a JSON schema, against a free one of the same program."""
    question = bench.text("schema", 24)

    def once(program, _):
        rates = []
        for fields in ({}, {"json_schema": SCHEMA}):
            seconds, (_, tokens, _) = timed(lambda f=fields: program.answer(question, 96, **f))
            rates.append(tokens / seconds)
        return rates[1] / rates[0]

    return bench.turns(once), "of free"


def embed(bench):
    """64 texts embedded: sent without waiting, or to llama-server as a list."""
    bench.stop()
    options = ("--embeddings", "--pooling", "mean")
    bench.running = [bench.start(which, options=options) for which in range(len(bench.servers) + 1)]
    try:
        def once(program, turn):
            texts = [f"{turn} text number {number} is about the weather at sea" for number in range(64)]
            return timed(lambda: program.embed(texts))[0] * 1000

        return bench.turns(once), "ms"
    finally:
        bench.stop()


def each_alone(bench, action):
    """What action(which) returns for each program, with no other one running."""
    bench.stop()
    return [[action(which)] for which in range(len(bench.servers) + 1)]


def memory(bench, context):
    """Memory (Pss) after a request, of all processes of the program."""
    def once(which):
        program = bench.start(which, context)
        try:
            program.answer("Once upon a time", 16)
            return program.memory()
        finally:
            program.stop()

    return each_alone(bench, once), "MiB"


def instances(bench, count):
    """Memory (Pss) of several programs on one model together."""
    def once(which):
        programs = [bench.start(which) for _ in range(count)]
        try:
            for program in programs:
                program.answer("Once upon a time", 16)
            return sum(program.memory() for program in programs)
        finally:
            for program in programs:
                program.stop()

    return each_alone(bench, once), "MiB"


def load(bench, cold):
    """From the start of the program to the first token, the file in the system's cache or not."""
    bench.stop()
    rounds = []
    for _ in range(3):
        row = []
        for which in range(len(bench.servers) + 1):
            if cold and (stays := peers.forget(bench.model)) > 0.01:
                raise OSError(f"{stays:.0%} of the file stay in the system's cache")
            program = bench.start(which)
            try:
                program.answer("Once upon a time", 1)
                row.append((time.perf_counter() - program.begin) * 1000)
            finally:
                program.stop()
        rounds.append(row)
    return list(zip(*rounds)), "ms"


ROWS = {
    "decode": lambda b: decode(b, 16),
    "short": short,
    **{f"prompt-{n}": lambda b, n=n: prompt(b, n) for n in (220, 850, 2590)},
    **{f"decode-{n}": lambda b, n=n: decode(b, n) for n in (850, 2590)},
    "turn": turn,
    "schema": schema,
    "embed": embed,
    **{f"memory-{n}": lambda b, n=n: memory(b, n) for n in (4096, 32768)},
    **{f"instances-{n}": lambda b, n=n: instances(b, n) for n in (2, 3)},
    "load-cold": lambda b: load(b, True),
    "load-warm": lambda b: load(b, False),
    "together-2": lambda b: together.share(b, 2),
    "together-3": lambda b: together.share(b, 3),
    "beside": together.beside,
    "map": together.map_lines,
    "shell": together.shell,
    "company": together.company,
}
# Rows of how a program is used, not of the model: measured with the first model only.
ONCE = {"schema", "embed", "instances-2", "instances-3", "together-2", "together-3", "beside", "map", "shell",
        "company"}


def show(name, model, results, unit):
    """A line of the table: medians, and the ratio of bridge to server, turn by turn."""
    larger_is_better = unit not in ("ms", "s", "MiB")
    mine, cells = results[0], []
    cells.append(f"{statistics.median(mine):.4g}")
    for theirs in results[1:]:
        pairs = list(zip(mine, theirs))
        # Memory: what the bridge takes of the other. All else: how much quicker it is.
        ratios = [a / b if larger_is_better or unit == "MiB" else b / a for a, b in pairs]
        cells += [f"{statistics.median(theirs):.4g}", f"**{statistics.median(ratios):.2f}**",
                  f"{min(ratios):.2f} to {max(ratios):.2f}"]
    print("|", " | ".join([model, name, unit, *cells, str(len(mine))]), "|", flush=True)


def measure(bench, name, label):
    try:
        answer = ROWS[name](bench)
        if isinstance(answer, str):
            print(f"| {label} | {name} | {answer} |", flush=True)
        else:
            show(name, label, *answer)
    except (OSError, KeyError, ValueError) as error:
        print(f"| {label} | {name} | failed: {' '.join(str(error).split())[-300:]} |", flush=True)
        bench.stop()


def main():
    try:
        options, models = getopt.getopt(sys.argv[1:], "", ["rows=", "server=", "seconds=", "list"])
    except getopt.GetoptError as error:
        sys.exit(f"{error}\n{__doc__}")
    if ("--list", "") in options:
        for name, row in ROWS.items():
            print(name)
        return
    servers = [("llama-server", os.environ["LLAMA_SERVER"])] if "LLAMA_SERVER" in os.environ else []
    servers += [tuple(value.split("=", 1)) for option, value in options if option == "--server"]
    chosen = ",".join(value for option, value in options if option == "--rows")
    chosen = chosen.split(",") if chosen else list(ROWS)
    seconds = float(dict(options).get("--seconds", 15))
    unknown = [name for name in chosen if name not in ROWS]
    if not models or not servers or unknown or not PROGRAM.exists():
        sys.exit(f"no such row: {', '.join(unknown)}" if unknown else __doc__)
    # Ended from outside, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    about.say(PROGRAM, servers, ROOT)
    heads = ["model", "row", "unit", "bridge"]
    for name, _ in servers:
        heads += [name, "ratio", "from, to"]
    print("|", " | ".join([*heads, "turns"]), "|\n|", " | ".join(["---"] * (len(heads) + 1)), "|", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="table.") as directory:
        for number, model in enumerate(models):
            work = pathlib.Path(directory, str(number))
            work.mkdir()
            bench = Bench(servers, model, work, seconds)
            label = pathlib.Path(model).stem
            try:
                for name in chosen:
                    if number == 0 or name not in ONCE:
                        measure(bench, name, label)
            finally:
                bench.stop()
    print(f"\ntook {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
