"""Rows of table.py about company: several programs at once, and what is done from the shell."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE.parents[1] / "target/release"
SECONDS = 3


def rate(programs):
    """Tokens a second of programs that all generate for some seconds, together."""
    rates, failures = [], []

    def generate(program):
        begin, made = time.monotonic(), 0
        try:
            while time.monotonic() - begin < SECONDS:
                made += program.answer("Once upon a time", 16)[1]
        except OSError as error:
            failures.append(error)
        rates.append(made / (time.monotonic() - begin))

    threads = [threading.Thread(target=generate, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(rates)


def against_alone(bench, crowded, count):
    """The rate in company against that of one program alone, for each program in turns."""
    bench.stop()
    rounds = [[] for _ in range(len(bench.servers) + 1)]
    for which, ratios in enumerate(rounds):
        programs = [bench.start(which) for _ in range(count)]
        try:
            for program in programs:
                program.answer("Once upon a time", 16)
            end = time.monotonic() + bench.seconds * 2 / len(rounds)
            while len(ratios) < 1 or time.monotonic() + 2 * SECONDS < end:
                alone = rate(programs[:1])
                ratios.append(crowded(programs) / alone)
        finally:
            for program in programs:
                program.stop()
    most = min(map(len, rounds))
    return [ratios[:most] for ratios in rounds], "of alone"


def share(bench, count):
    """Several busy programs, the sum against one alone."""
    return against_alone(bench, rate, count)


def beside(bench):
    """One program beside a process that only calculates, against alone."""
    def crowded(programs):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            return rate(programs)
        finally:
            busy.kill()
            busy.wait()

    return against_alone(bench, crowded, 1)


def map_lines(bench):
    """64 prompts in lines, 16 tokens each: one `llambo map` against 8 curls at once."""
    bench.stop()
    if not shutil.which("curl"):
        return "curl is not installed"
    lines = [f"{number} ships left the harbour before dawn, and" for number in range(64)]
    options = ("-np", 8)
    bench.running = [bench.start(which, options=options) for which in range(len(bench.servers) + 1)]
    bench.running[0].leave()

    def llambo(program):
        command = [PROGRAMS / "llambo", "--socket", program.path, "map", "--temp", "0", "-n", "16"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", stdout=subprocess.PIPE, text=True, check=True)
        if len(done.stdout.splitlines()) < len(lines):
            raise OSError("llambo map: not as many answers as lines")

    def curls(program):
        def configuration(prompt):
            body = json.dumps({"prompt": prompt, "n_predict": 16, "temperature": 0}).replace("\\", "\\\\")
            return (f'unix-socket = "{program.path}"\nurl = "http://localhost/completion"\n'
                    f"fail\nsilent\ndata = \"{body.replace(chr(34), chr(92) + chr(34))}\"\n")

        running = []
        for first in range(8):
            text = "next\n".join(configuration(prompt) for prompt in lines[first::8])
            curl = subprocess.Popen(["curl", "--config", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            curl.stdin.write(text)
            curl.stdin.close()
            running.append(curl)
        if any(curl.wait() for curl in running):
            raise OSError("curl failed")

    def once(program, _):
        begin = time.perf_counter()
        (llambo if program.name == "bridge" else curls)(program)
        return (time.perf_counter() - begin) * 1000

    try:
        return bench.turns(once), "ms"
    finally:
        bench.stop()


def printed(command, **settings):
    """What a script prints, its lines as one."""
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **settings}, check=False
        )
        errors.seek(0)
        if done.returncode:
            raise OSError(errors.read()[-300:])
    return "; ".join(" ".join(line.split()) for line in done.stdout.splitlines() if line)


def shell(bench):
    """20 prompts from the shell: what llambo-vs-completion.sh prints."""
    bench.stop()
    if not os.environ.get("LLAMA_COMPLETION"):
        return "LLAMA_COMPLETION is not set"
    return printed([HERE / "llambo-vs-completion.sh", bench.model], TOKENS="8")


def company(bench):
    """The same in more detail: what company.py prints."""
    bench.stop()
    return printed([HERE / "company.py", bench.model])
