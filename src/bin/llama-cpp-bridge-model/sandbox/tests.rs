//! The sandbox, looked at from inside: a process of its own enters it, and makes each call that it is
//! there for. Where a call would have an effect if it were allowed, its arguments are such that it has
//! a harmless one or fails with another error.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;

use super::calls::{Place, rows};
use super::numbers::NEWEST;
use super::{enter, settle};
use llama_cpp_bridge::shared::settings::{ModelParams, StateFiles};
use llama_cpp_bridge::sys::kernel;

#[allow(unsafe_code)]
mod raw {
    include!("../../../sys/raw_calls.rs");
}

/// Names the directory of the test to the process that enters the sandbox, and says which one.
const PLACE: &str = "LLAMA_CPP_BRIDGE_TEST_SANDBOX";
const DRIVER: &str = "LLAMA_CPP_BRIDGE_TEST_DRIVER";

/// The files that are there: the model, another one, a state of this model and one of another.
const UNTOUCHED: [&str; 4] = [
    "model",
    "outside",
    "states/own/a.state",
    "states/other/a.state",
];

/// The file that the bridge has created for the next state.
const SCRATCH: &str = "states/own/saving/scratch";

/// Bytes that saved states may have in these tests.
const STATE_LIMIT: u64 = 1 << 20;

#[test]
fn on_a_processor_what_is_not_needed_fails() {
    look_from_inside(false);
}

#[test]
fn with_a_driver_what_reaches_out_fails() {
    look_from_inside(true);
}

/// Has a process of its own enter the sandbox and run [`inside`].
fn look_from_inside(driver: bool) {
    let home = env::temp_dir().join(format!(
        "llama-cpp-bridge-sandbox-{driver}-{}",
        process::id()
    ));
    fs::create_dir_all(home.join("states/own/saving")).expect("it can be made");
    fs::create_dir(home.join("states/other")).expect("it can be made");
    for name in UNTOUCHED {
        fs::write(home.join(name), "untouched").expect("it can be written");
    }
    fs::write(home.join(SCRATCH), "").expect("it can be written");
    let program = env::current_exe().expect("it has a path");
    let mut inside = Command::new(program);
    inside.args([
        "--exact",
        "sandbox::tests::inside",
        "--ignored",
        "--nocapture",
    ]);
    // In a group of its own, so that no call can mean this one.
    inside
        .process_group(0)
        .env(PLACE, &home)
        .env(DRIVER, if driver { "1" } else { "" });
    let ended = inside.output().expect("it starts");
    let kept = UNTOUCHED.map(|name| fs::read_to_string(home.join(name)).ok());
    fs::remove_dir_all(&home).expect("it can be removed");
    let text = String::from_utf8_lossy(&ended.stdout);
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
    assert_eq!(kept, UNTOUCHED.map(|_| Some("untouched".into())));
}

/// Run by [`look_from_inside`] in a process of its own.
#[test]
#[ignore = "it confines the process that runs it"]
fn inside() {
    let home = env::var_os(PLACE).map(PathBuf::from);
    let home = home.expect("another test starts this one");
    let driver = env::var_os(DRIVER).is_some_and(|value| !value.is_empty());
    let params = params(&home);
    let (_, highest) = llama_cpp_bridge::sys::process::open_descriptors();
    assert_eq!(enter(&params, driver), Ok(()));
    if !driver {
        limits_are_hard(highest);
    }
    assert_eq!(settle(driver), Ok(()));
    let place = Place::new(&home);
    let wrong: Vec<String> = rows(&place)
        .into_iter()
        .filter_map(|(name, call, arguments, on_cpu, with_driver)| {
            let expected = if driver { with_driver } else { on_cpu };
            let landlock = expected != libc::EACCES || kernel::landlock_version().is_some();
            let error = raw::error_of(call, arguments);
            println!("{name}: {error}");
            (landlock && error != expected).then(|| format!("{name}: {error}, not {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    what_is_needed_works(&home);
    if !driver {
        if kernel::landlock_version().is_some() {
            states_are_its_own(&home);
        }
        too_much_for_a_file_is_an_error(&home);
    }
}

/// Not a signal that ends the process.
fn too_much_for_a_file_is_an_error(home: &Path) {
    let mut file = fs::File::create(home.join(SCRATCH)).expect("it can be opened");
    let (fits, _) = raw::limit_of(libc::RLIMIT_FSIZE as i32);
    file.write_all(&vec![0; fits as usize])
        .expect("it can be written");
    let error = file.write_all(&[0]).expect_err("it is full");
    assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
}

/// What the standard library does of what is allowed.
fn what_is_needed_works(home: &Path) {
    let sum = thread::spawn(|| (0..10).sum::<u32>());
    assert_eq!(sum.join().expect("threads can be started"), 45);
    let (ours, _theirs) = UnixStream::pair().expect("standard error can be captured");
    ours.set_nonblocking(true).expect("it can be set");
    assert_eq!(
        fs::read(home.join("model")).expect("it can be read"),
        b"untouched"
    );
    let large = vec![0u8; 64 << 20];
    assert_eq!([large.clone(), large].concat().len(), 128 << 20);
}

/// Of saved states only those of this model can be read, and only one can be written.
fn states_are_its_own(home: &Path) {
    let error = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let write = |name: &str| error(fs::write(home.join(name), "state"));
    let read = |name: &str| error(fs::read(home.join(name)).map(drop));
    let list = |name: &str| error(fs::read_dir(home.join(name)).map(drop));
    let denied = Some(libc::EACCES);
    for _ in 0..2 {
        assert_eq!((write(SCRATCH), read(SCRATCH)), (None, None));
    }
    let own = "states/own/a.state";
    assert_eq!((read(own), write(own)), (None, denied));
    assert_eq!(read("states/other/a.state"), denied);
    for name in ["states/own/b.state", "states/own/saving/more"] {
        assert_eq!(write(name), denied, "{name}");
    }
    for name in ["states", "states/own", "states/own/saving", "states/other"] {
        assert_eq!(list(name), denied, "{name}");
    }
    assert!(fs::rename(home.join(SCRATCH), home.join(own)).is_err());
    assert!(fs::remove_file(home.join(own)).is_err());
}

/// Before the load ends, the limit of memory can be set; those that are set stay.
fn limits_are_hard(highest: u64) {
    assert_eq!(
        raw::limit_of(libc::RLIMIT_FSIZE as i32),
        (STATE_LIMIT + (1 << 14), STATE_LIMIT + (1 << 14))
    );
    let (soft, hard) = raw::limit_of(libc::RLIMIT_NOFILE as i32);
    assert!(soft == hard && hard < highest + 128, "{soft} {hard}");
    let before = 8 << 40;
    llama_cpp_bridge::sys::process::limit_data(before);
    assert_eq!(raw::limit_of(libc::RLIMIT_DATA as i32), (before, before));
    llama_cpp_bridge::sys::process::limit_data(before + 1);
    assert_eq!(raw::limit_of(libc::RLIMIT_DATA as i32), (before, before));
}

/// The newest call of a table of the kernel's headers, and its name.
fn newest(header: &str) -> Option<(i64, &str)> {
    let calls = header.lines().filter_map(|line| {
        let (name, number) = line
            .strip_prefix("#define __NR_")?
            .split_once([' ', '\t'])?;
        Some((number.trim().parse().ok()?, name))
    });
    // The number of calls is among them, by names of its own.
    calls.filter(|(_, name)| !name.contains("syscalls")).max()
}

#[test]
fn newer_calls_of_the_headers_are_told() {
    let header = "#define __NR_io_setup 0\n#define __NR_mseal 462\n#undef __NR_syscalls\n\
                  #define __NR_syscalls 463\n#define __NR3264_statfs 43\n";
    assert_eq!(newest(header), Some((462, "mseal")));
    for path in [
        "/usr/include/asm-generic/unistd.h",
        "/usr/include/asm/unistd_64.h",
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/aarch64-linux-gnu/asm/unistd_64.h",
    ] {
        let Ok(header) = fs::read_to_string(path) else {
            continue;
        };
        let (number, name) = newest(&header).expect("it has calls");
        if number > NEWEST {
            println!("{path} has {name} ({number}): consider it in the lists, and raise NEWEST");
        }
    }
}

fn params(home: &Path) -> ModelParams {
    let path = |name| {
        home.join(name)
            .to_str()
            .expect("test paths are UTF-8")
            .to_string()
    };
    ModelParams {
        path: path("model"),
        file: path("model"),
        size: 9,
        state_dir: Some(path("states")),
        states: Some(StateFiles {
            directory: path("states/own"),
            scratch: "scratch".to_string(),
            model_hash: 1,
        }),
        state_limit: STATE_LIMIT,
        ..ModelParams::default()
    }
}
