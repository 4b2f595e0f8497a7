//! poll(2) that fails now and then for want of memory. A filter of system calls has it fail here: each
//! call whose time limit is an odd number of milliseconds.

use crate::harness::{Bridge, Directory, call_filter, command, ok, process, program, skip};

/// poll(2) is call 7; one without a time limit is left alone.
const ROWS: &str = "
    (0x20, 0, 0, 0),                # the number of the call
    (0x15, 0, 5, 7),
    (0x20, 0, 0, 32),               # the time limit
    (0x15, 3, 0, 0xffffffff),
    (0x54, 0, 0, 1),
    (0x15, 0, 1, 1),
    (0x06, 0, 0, 0x0005000c),       # ENOMEM
    (0x06, 0, 0, 0x7fff0000),
";

#[test]
fn a_poll_that_fails_for_want_of_memory_is_tried_again() {
    let Some(mut filtered) = call_filter(ROWS) else {
        return skip("the system does not filter poll(2) here");
    };
    let home = Directory::new();
    let metrics = home.join("metrics");
    // With that there is always a time limit.
    let metrics = metrics.to_str().expect("test paths are UTF-8");
    let options = command(&home, &["--metrics-file", metrics]);
    filtered
        .arg(program())
        .args(options.get_args())
        .env_remove("LLAMA_CPP_BRIDGE_SOCKET");
    let mut bridge = Bridge::start_command(&mut filtered, home.socket());
    let mut client = bridge.connect();
    for _ in 0..40 {
        client.exchange("PING", &ok("pong"));
    }
    process::signal(bridge.pid(), "TERM");
    bridge.expect_stop(&[]);
    let failed = "llama-cpp-bridge: poll: Cannot allocate memory (os error 12); will retry\n";
    assert!(bridge.errors().contains(failed), "{}", bridge.errors());
}
