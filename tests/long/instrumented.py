"""Builds the programs with something put in by the compiler, without llama.cpp
being compiled again.

Flags of one's own in RUSTFLAGS would have all of it compiled again. So cargo is
given a wrapper of the compiler for the crates of this package, and begins with a
copy of what the ordinary build has made; nothing is written there.
"""

import os
import shutil
import subprocess

from bridge import PROGRAMS, ROOT

TARGET = os.path.dirname(PROGRAMS)

# No shell: it would drop the variables CARGO_BIN_EXE_..., whose names have a `-`.
WRAPPER = """#!/usr/bin/env python3
import os
import sys

crate, flags = {crate!r}, {flags!r}
named = sys.argv[sys.argv.index("--crate-name") + 1] if "--crate-name" in sys.argv else ""
if named and named != "build_script_build" and crate in (None, named):
    os.environ["RUSTC_BOOTSTRAP"] = "1"
    sys.argv += flags
os.execvp(sys.argv[1], sys.argv[1:])
"""


def folder(name, anew=()):
    """A target directory with the dependencies in it, as the ordinary build has them,
    but for those that are to be built anew."""
    path = os.path.join(TARGET, name)
    release = os.path.join(path, "release")
    if os.path.exists(release):
        return path

    def left_out(_, names):
        starts = ("tests-", "llambo-", *(f"{crate}-" for crate in anew))
        return [name for name in names if name.startswith(starts)]

    for part in (".fingerprint", "build", "deps"):
        copy = os.path.join(release, part)
        original = os.path.join(PROGRAMS, part)
        if not os.path.isdir(original):
            break  # nothing is built yet: then all is built here
        shutil.copytree(original, copy, symlinks=True, ignore=left_out)
    return path


def wrapper(path, flags, crate=None):
    """A program that cargo calls in place of the compiler, which adds flags for this
    crate, or for all."""
    name = os.path.join(path, f"rustc-for-{crate or 'all'}")
    with open(name, "w", encoding="utf-8") as out:
        out.write(WRAPPER.format(crate=crate, flags=flags))
    os.chmod(name, 0o755)
    return name


def cargo(path, flags, arguments, **environment):
    """Runs cargo with these flags for our crates; ends if that fails."""
    variables = {
        "CARGO_TARGET_DIR": path,
        "RUSTC_WORKSPACE_WRAPPER": wrapper(path, flags),
    }
    subprocess.run(
        ["cargo", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables, **environment},
        check=True,
    )
