#!/bin/sh
# Software: outlines-core 0.2.14 (PyPI), build_regex_from_schema.
# Expected: {"type": "string"} allows every JSON string, \uXXXX escapes among them.
# Does: the expression knows only the two-character escapes (\n, \", ...), so the text that
# json.dumps makes of "é" by default is not allowed, nor is \u0001, which has no other spelling.
# Met by: who checks or continues JSON that was written ASCII-only, or has a control character in it.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q outlines-core==0.2.14
"$dir/venv/bin/python" - <<'PY'
import json
import re
import sys
from outlines_core.json_schema import build_regex_from_schema

regex = build_regex_from_schema('{"type": "string"}')
print("regex:", regex)
seen = []
for text in (json.dumps("a\n"), json.dumps("é", ensure_ascii=False), json.dumps("é"), json.dumps("\x01")):
    seen.append(re.fullmatch(regex, text) is not None)
    print(ascii(text), "allowed" if seen[-1] else "not allowed")
if seen != [True, True, False, False]:
    sys.exit("Changed: the strings allowed are no longer those without a \\uXXXX escape.")
PY
