"""What was measured where: the lines above the table. Used by table.py."""

import os
import pathlib
import platform
import re
import subprocess
import time

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "asimddp", "i8mm", "sve")


def output(*command):
    """The first line that a command prints, or ''."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip().split("\n")[0]


def processor():
    """Its name and those of its features that llama.cpp has kernels for."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"^(?:model name|Model)\s*: (.*)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    have = flags[1].split() if flags else []
    return (name[1] if name else platform.machine()), " ".join(f for f in FEATURES if f in have)


def say(bridge, servers, root):
    name, features = processor()
    git = output("git", "-C", str(root), "log", "-1", "--format=%h, %cs")
    changed = output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    print(f"- {time.strftime('%Y-%m-%d %H:%M')}, {len(os.sched_getaffinity(0))} processors of {name} ({features}), "
          f"{platform.system()} {platform.release()}, load {os.getloadavg()[0]:.2f}")
    print(f"- bridge: {output(str(bridge), '--version')}, commit {git}{' with changes' if changed else ''}")
    for server, program in servers:
        version = re.search(r"^version: .*$", subprocess.run(
            [program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout, re.M)
        print(f"- {server}: {version[0] if version else program}")
    print(flush=True)
