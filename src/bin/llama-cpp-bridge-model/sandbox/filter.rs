//! The filter of system calls: a list of calls, each with conditions on its arguments where these
//! matter, becomes a program for the kernel, which all threads run before each call.
//!
//! The kernel notes once which calls are allowed whatever their arguments are (since Linux 5.11), and
//! runs the program for the others only: a longer list costs nothing.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use libc::{c_int, c_long, c_ulong};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use super::numbers::{CLONE3, NEWEST, OPENAT2};

/// Calls that the kernel is to know nothing of: they take their flags in memory, where a filter cannot
/// look. The C library then makes the older call of the same purpose.
const UNKNOWN: [c_long; 2] = [CLONE3, OPENAT2];

/// The calls that open a file, and which of their arguments has the flags.
#[cfg(target_arch = "x86_64")]
pub(super) const OPENING: &[(c_long, u8)] = &[(libc::SYS_openat, 2), (libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const OPENING: &[(c_long, u8)] = &[(libc::SYS_openat, 2)];

/// The flag by which a call that opens a file makes one without a name: what it holds is seen and
/// counted by nobody. O_TMPFILE includes O_DIRECTORY.
pub(super) const NAMELESS: c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// The bits of the kind of a socket (`SOCK_TYPE_MASK`).
pub(super) const SOCKET_TYPE: c_int = 0xf;

/// The advice of madvise(2) from which on it is for the whole machine (`MADV_HWPOISON`).
pub(super) const ADVICE_END: c_int = 100;

/// A list of calls, and what their arguments must be for them to be meant.
#[derive(Default)]
pub(super) struct Calls {
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    error: Option<BackendError>,
}

impl Calls {
    /// Adds calls, with any arguments.
    pub(super) fn any(&mut self, calls: &[c_long]) {
        self.rules
            .extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// Adds a call with arguments that meet all of these conditions. Further conditions for the same
    /// call are alternatives.
    pub(super) fn when<const N: usize>(&mut self, call: c_long, conditions: [Condition; N]) {
        let conditions: Result<Vec<_>, _> = conditions.into_iter().map(|one| one.0).collect();
        match conditions.and_then(SeccompRule::new) {
            Ok(rule) => self.rules.entry(call).or_default().push(rule),
            Err(error) => self.error = Some(error),
        }
    }

    /// Allows these calls and no others.
    ///
    /// # Errors
    /// A sentence: what is not supported here.
    pub(super) fn allow(self) -> Result<(), String> {
        self.install(SeccompAction::Allow, denied())
    }

    /// Denies these calls and no others.
    ///
    /// # Errors
    /// A sentence: what is not supported here.
    pub(super) fn deny(self) -> Result<(), String> {
        self.install(denied(), SeccompAction::Allow)
    }

    fn install(self, listed: SeccompAction, other: SeccompAction) -> Result<(), String> {
        let program = self.program(listed, other);
        let program = program.map_err(|error| format!("no seccomp filter: {error}"))?;
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|error| format!("the kernel rejects the seccomp filter: {error}"))
    }

    fn program(
        self,
        listed: SeccompAction,
        other: SeccompAction,
    ) -> Result<BpfProgram, BackendError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let filter = SeccompFilter::new(self.rules, other, listed, ARCH.try_into()?)?;
        let rest: BpfProgram = filter.try_into()?;
        Ok([older_kernel(), rest].concat())
    }
}

/// Callers report what failed, and abort(3) still works.
fn denied() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM as u32)
}

/// The beginning of each program: calls that are newer than the lists, or [`UNKNOWN`], are answered
/// with ENOSYS. Calls of the x32 ABI are among them, as a bit makes their numbers higher than all.
fn older_kernel() -> BpfProgram {
    let instruction = |code: u32, jt: usize, jf: usize, k: u32| sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    // The number of the call is the first of what the kernel shows to a filter.
    let mut program = vec![instruction(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        0,
        0,
    )];
    // Jumps count the instructions that they skip: to the answer, after the other comparisons and
    // the jump that leads past it.
    let answer = UNKNOWN.len() + 1;
    let newer = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
    program.push(instruction(newer, answer, 0, NEWEST as u32));
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    for (index, call) in UNKNOWN.into_iter().enumerate() {
        let answer = answer - index - 1;
        program.push(instruction(equal, answer, 0, call as u32));
    }
    program.push(instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1));
    let no_such_call = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, no_such_call));
    program
}

/// A condition on an argument, which are counted from 0.
pub(super) struct Condition(Result<SeccompCondition, BackendError>);

impl Condition {
    /// Of an argument of which the kernel takes 32 bits.
    fn of_int(argument: u8, operator: SeccompCmpOp, number: u32) -> Self {
        let length = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, length, operator, number.into());
        Self(condition)
    }
}

/// The argument is this number.
pub(super) fn is(argument: u8, number: c_int) -> Condition {
    Condition::of_int(argument, SeccompCmpOp::Eq, number as u32)
}

/// The argument is another number.
pub(super) fn is_not(argument: u8, number: c_int) -> Condition {
    Condition::of_int(argument, SeccompCmpOp::Ne, number as u32)
}

/// The argument is less than this number.
pub(super) fn below(argument: u8, number: c_int) -> Condition {
    Condition::of_int(argument, SeccompCmpOp::Lt, number as u32)
}

/// The argument is this number or more.
pub(super) fn at_least(argument: u8, number: c_int) -> Condition {
    Condition::of_int(argument, SeccompCmpOp::Ge, number as u32)
}

/// The argument is this code of ioctl(2) or fcntl(2).
pub(super) fn is_code(argument: u8, code: c_ulong) -> Condition {
    Condition::of_int(argument, SeccompCmpOp::Eq, code as u32)
}

/// Of the bits in `mask`, the argument has those of `bits` and no others.
pub(super) fn has(argument: u8, mask: c_int, bits: c_int) -> Condition {
    let operator = SeccompCmpOp::MaskedEq(u64::from(mask as u32));
    Condition::of_int(argument, operator, bits as u32)
}

/// The argument is a null pointer.
pub(super) fn is_null(argument: u8) -> Condition {
    Condition(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::Eq,
        0,
    ))
}

/// The argument is another pointer than null.
pub(super) fn is_not_null(argument: u8) -> Condition {
    Condition(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::Ne,
        0,
    ))
}
