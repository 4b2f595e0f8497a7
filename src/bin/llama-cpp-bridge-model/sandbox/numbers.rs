//! The numbers of system calls that the libc crate has no name for, or not on every architecture and
//! with every C library. From 424 on a call has one number on all of them.

use libc::c_long;

/// The newest call that the lists have considered, by its number. Calls after it are answered as by a
/// kernel that is too old to have them, which whoever makes one has to expect.
pub(super) const NEWEST: c_long = 471;

#[cfg(target_arch = "x86_64")]
pub(super) const KEXEC_FILE_LOAD: c_long = 320;
/// Of the common table, which aarch64 and riscv64 have.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const KEXEC_FILE_LOAD: c_long = 294;

pub(super) const CLONE3: c_long = 435;
pub(super) const OPENAT2: c_long = 437;
pub(super) const FACCESSAT2: c_long = 439;
pub(super) const QUOTACTL_FD: c_long = 443;
pub(super) const PROCESS_MRELEASE: c_long = 448;
pub(super) const FUTEX_WAITV: c_long = 449;
pub(super) const FCHMODAT2: c_long = 452;
pub(super) const FUTEX_WAKE: c_long = 454;
pub(super) const FUTEX_WAIT: c_long = 455;
pub(super) const FUTEX_REQUEUE: c_long = 456;
pub(super) const STATMOUNT: c_long = 457;
pub(super) const LISTMOUNT: c_long = 458;
pub(super) const LSM_SET_SELF_ATTR: c_long = 460;
pub(super) const MSEAL: c_long = 462;
pub(super) const SETXATTRAT: c_long = 463;
pub(super) const REMOVEXATTRAT: c_long = 466;
pub(super) const OPEN_TREE_ATTR: c_long = 467;
pub(super) const FILE_SETATTR: c_long = 469;
pub(super) const LISTNS: c_long = 470;
pub(super) const RSEQ_SLICE_YIELD: c_long = 471;
