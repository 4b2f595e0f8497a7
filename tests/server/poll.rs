//! poll(2) that fails now and then for want of memory. A filter of system calls has it fail here: each
//! call whose time limit is an odd number of milliseconds.

use std::process::Command;

use crate::harness::{Bridge, Directory, command, ok, process, program, skip};

/// Sets the filter, and becomes the program of its arguments.
const FILTERED: &str = "
import ctypes, os, struct, sys
ENOMEM, ALLOW = 0x0005000c, 0x7fff0000
POLL = 7
program = b''.join(struct.pack('HBBI', *row) for row in [
    (0x20, 0, 0, 0),                # the number of the call
    (0x15, 0, 5, POLL),
    (0x20, 0, 0, 32),               # the time limit
    (0x15, 3, 0, 0xffffffff),
    (0x54, 0, 0, 1),
    (0x15, 0, 1, 1),
    (0x06, 0, 0, ENOMEM),
    (0x06, 0, 0, ALLOW),
])
rows = ctypes.create_string_buffer(program, len(program))
filter = struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(rows))
libc = ctypes.CDLL(None)
libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
assert libc.prctl(38, 1, None, 0, 0) == 0
if libc.prctl(22, 2, filter, 0, 0) != 0:
    sys.exit(3)
os.execv(sys.argv[1], sys.argv[1:])
";

fn within(program: &std::path::Path) -> Command {
    let mut python = Command::new("python3");
    python.args(["-c", FILTERED]).arg(program);
    python
}

#[test]
fn a_poll_that_fails_for_want_of_memory_is_tried_again() {
    let able = cfg!(target_arch = "x86_64")
        && within("/bin/true".as_ref())
            .status()
            .is_ok_and(|status| status.success());
    if !able {
        return skip("the system does not filter poll(2) here");
    }
    let home = Directory::new();
    let metrics = home.join("metrics");
    // With that there is always a time limit.
    let metrics = metrics.to_str().expect("test paths are UTF-8");
    let options = command(&home, &["--metrics-file", metrics]);
    let mut filtered = within(program());
    filtered
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
