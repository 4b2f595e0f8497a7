//! System calls that fail now and then: a filter of them, as the kernel takes it.

use std::process::Command;

/// Sets the filter, and becomes the program of its arguments.
const FILTERED: &str = "
import ctypes, os, struct, sys
program = b''.join(struct.pack('HBBI', *row) for row in [ROWS])
rows = ctypes.create_string_buffer(program, len(program))
filter = struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(rows))
libc = ctypes.CDLL(None)
libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
assert libc.prctl(38, 1, None, 0, 0) == 0
if libc.prctl(22, 2, filter, 0, 0) != 0:
    sys.exit(3)
os.execv(sys.argv[1], sys.argv[1:])
";

/// What runs a program, that is still to be added with its arguments, under a filter of these rows: the
/// calls of x86-64. `None` where there can be none.
pub(crate) fn call_filter(rows: &str) -> Option<Command> {
    let script = FILTERED.replace("ROWS", rows);
    let filtered = || {
        let mut python = Command::new("python3");
        python.args(["-c", &script]);
        python
    };
    let works = || {
        let status = filtered().arg("/bin/true").status();
        status.is_ok_and(|status| status.success())
    };
    (cfg!(target_arch = "x86_64") && works()).then(filtered)
}
