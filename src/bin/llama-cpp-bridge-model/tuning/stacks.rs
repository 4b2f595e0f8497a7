//! How much memory the stacks of threads take that are only started when they are needed.

use std::env;

use super::requested_threads;
use llama_cpp_bridge::shared::settings::ModelParams;
use llama_cpp_bridge::sys::process::stack_size;

/// The environment variables by which a user sets the stack of OpenMP's threads.
const VARIABLES: [&str; 2] = ["OMP_STACKSIZE", "GOMP_STACKSIZE"];

/// What a thread has where there is no limit: glibc's for most processors.
const UNLIMITED: u64 = 2 << 20;

/// Bytes of the stacks of all threads.
pub fn stacks(load: &ModelParams) -> u64 {
    let threads = requested_threads(load);
    let threads = threads.single.max(threads.batch);
    let asked = VARIABLES
        .iter()
        .find_map(|name| bytes(&env::var(name).ok()?));
    let stack = asked.or_else(stack_size).unwrap_or(UNLIMITED);
    stack.saturating_mul(threads.into())
}

/// The bytes that are written as OpenMP takes them: with B, K, M or G behind, or in KiB.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let unit = match text[digits.len()..].trim().to_ascii_uppercase().as_str() {
        "B" => 1,
        "" | "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn a_size_of_a_stack_is_read_as_openmp_reads_it() {
        for (text, size) in [
            ("512", Some(512 << 10)),
            ("512B", Some(512)),
            (" 16 k ", Some(16 << 10)),
            ("4M", Some(4 << 20)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("many", None),
            ("4T", None),
            ("99999999999999999999", None),
            ("18446744073709551615G", None),
        ] {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
