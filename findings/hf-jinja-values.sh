#!/bin/sh
# Software: @huggingface/jinja 0.5.11 (npm), beside Jinja2 3.1.6 (PyPI).
# Expected: a list printed by {{ }} looks as in Jinja2, Python's way, and true prints as True.
# Does: prints lists as JSON ("a", true, null) and a lone true as "true", none as nothing.
# Met by: who renders a chat template that prints a list or a flag without tojson: the prompt that
# JavaScript makes is not the one that Python makes.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q jinja2==3.1.6
npm install --silent --prefix "$dir" @huggingface/jinja@0.5.11 >"$dir/npm.log" 2>&1
template='{{ [1, "a", true, none] }} {{ true }} [{{ none }}]'
cat >"$dir/render.mjs" <<'JS'
import { Template } from "@huggingface/jinja";
process.stdout.write(new Template(process.argv[2]).render({}));
JS
in_python=$("$dir/venv/bin/python" -c 'import jinja2, sys
print(jinja2.Template(sys.argv[1]).render())' "$template")
in_js=$(node "$dir/render.mjs" "$template")
printf 'template: %s\njinja2:   %s\njs:       %s\n' "$template" "$in_python" "$in_js"
if [ "$in_python" != "[1, 'a', True, None] True [None]" ] || [ "$in_js" != "[1, \"a\", true, null] true []" ]; then
    echo "Changed: the two no longer print values in these two ways." >&2
    exit 1
fi
