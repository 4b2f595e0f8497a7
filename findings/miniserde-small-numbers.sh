#!/bin/sh
# Software: miniserde 0.1.46 (crates.io), json::from_str of an f64.
# Expected: a number reads as the nearest double, as str::parse, serde_json and Python do: what
# miniserde itself wrote comes back as it was.
# Does: of small numbers, as they come from a computation, with 16 or 17 digits, a fifth (1e-5) to
# a half (1e-20) are read as a neighbour of the nearest double; from 1 on none was.
# Met by: who keeps embeddings or log probabilities in JSON and compares them, or hashes them, after
# reading: the value is not always the one that was written.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "numbers"
version = "0.0.0"
edition = "2021"

[dependencies]
miniserde = "=0.1.46"
TOML
cat >"$dir/src/main.rs" <<'RUST'
use miniserde::json;

/// Of 1,000 numbers from 10^exponent to ten times that, how many come back as they were.
fn same(exponent: i32) -> usize {
    let number = |n: i32| f64::from(1 + n * 9 / 1000 * 1000 + n % 1000) / 1000.0;
    let numbers = (1000..2000).map(|n| number(n) * 10f64.powi(exponent));
    let same = |number: &f64| {
        let text = json::to_string(number);
        assert_eq!(text.parse(), Ok(*number));
        json::from_str::<f64>(&text).unwrap() == *number
    };
    numbers.filter(same).count()
}

fn main() {
    for exponent in [0, -5, -10, -15, -20, -30, -40] {
        println!("1e{exponent}: {} of 1000", same(exponent));
    }
}
RUST
seen=$(cargo run --quiet --manifest-path "$dir/Cargo.toml")
printf 'read back as they were written:\n%s\n' "$seen"
if [ "$seen" != "1e0: 1000 of 1000
1e-5: 812 of 1000
1e-10: 744 of 1000
1e-15: 810 of 1000
1e-20: 454 of 1000
1e-30: 487 of 1000
1e-40: 803 of 1000" ]; then
    echo "Changed: other numbers come back as they were written." >&2
    exit 1
fi
