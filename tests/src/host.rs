//! ⚠ Hosts that lack something: a program whose system calls fail as they would there.
#![allow(unsafe_code, reason = "a filter of system calls")]

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call that a host does not have, or not with these arguments.
#[derive(Clone, Copy, Debug)]
pub struct Lack {
    /// What it is, in a few words.
    pub what: &'static str,
    /// The call's number.
    pub call: libc::c_long,
    /// An argument, and the bits of it that are all set where the call fails.
    pub argument: Option<(u8, u64)>,
    /// What the kernel says then.
    pub error: libc::c_int,
}

/// What hosts have been seen without.
pub const LACKS: [Lack; 8] = [
    lack("files without a name", libc::SYS_openat, Some((2, libc::O_TMPFILE as u64)), libc::EOPNOTSUPP),
    lack("PAGEMAP_SCAN", libc::SYS_ioctl, Some((1, 0xc060_6610)), libc::ENOTTY),
    lack("statx", libc::SYS_statx, None, libc::ENOSYS),
    lack("copies between files", libc::SYS_copy_file_range, None, libc::EXDEV),
    lack("io_uring", libc::SYS_io_uring_setup, None, libc::EPERM),
    lack("renaming without replacing", libc::SYS_renameat2, Some((4, 1)), libc::EINVAL),
    lack("faccessat2", libc::SYS_faccessat2, None, libc::ENOSYS),
    lack("huge pages by advice", libc::SYS_madvise, Some((2, libc::MADV_HUGEPAGE as u64)), libc::EINVAL),
];

const fn lack(
    what: &'static str,
    call: libc::c_long,
    argument: Option<(u8, u64)>,
    error: libc::c_int,
) -> Lack {
    Lack { what, call, argument, error }
}

/// Has a program run as on a host with these lacks.
pub fn without(command: &mut Command, lacks: &[Lack]) {
    let programs: Vec<BpfProgram> = lacks.iter().map(program).collect();
    let put_on = move || programs.iter().try_for_each(apply);
    // SAFETY: between fork and exec, it makes two system calls with memory that was
    // made before, and allocates nothing unless one of them fails.
    unsafe { command.pre_exec(put_on) };
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(|error| io::Error::other(error.to_string()))
}

fn program(lack: &Lack) -> BpfProgram {
    let rules = lack.argument.map(|(index, bits)| {
        let op = SeccompCmpOp::MaskedEq(bits);
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, bits);
        SeccompRule::new(vec![condition.expect("a call has six arguments")]).expect("it has a condition")
    });
    let rules = BTreeMap::from([(lack.call, rules.into_iter().collect())]);
    let fails = SeccompAction::Errno(lack.error as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, fails, TargetArch::x86_64);
    filter.expect("two actions that differ").try_into().expect("one rule")
}
