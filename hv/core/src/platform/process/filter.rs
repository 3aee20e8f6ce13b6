//! ⚠ The system calls that the process of a guest may make.
#![allow(unsafe_code, reason = "asking whether the kernel takes filters")]

use hv_stub::{FIRST_DOORBELL, MAX_DOORBELLS, PAGE, field, owner};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::io;
use std::sync::OnceLock;

/// The calls, for the threat model: the name, and the allowed arguments.
pub const ALLOWED: [(&str, &str); 2] = [
    (
        "futex",
        "FUTEX_WAIT while hv has control, without a timeout, and FUTEX_WAKE, on the first word of the handoff page",
    ),
    ("write", "the number 1 to an eventfd of a doorbell"),
];

/// Whether this host allows system-call filters for this process.
pub(super) fn is_possible() -> io::Result<()> {
    // SAFETY: the call reads the program first, and the null pointer is not one: it fails and changes nothing.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::null::<u8>()) };
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EFAULT) => Ok(()),
        error => Err(error),
    }
}

/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

/// The filter, in the kernel's form. Every call that it does not allow is an exception of the guest.
pub(super) fn program() -> &'static BpfProgram {
    static PROGRAM: OnceLock<BpfProgram> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let is = |argument, len, value| {
            SeccompCondition::new(argument, len, Op::Eq, value).expect("the number of an argument")
        };
        let compare = |argument, op, value: i32| {
            SeccompCondition::new(argument, Len::Dword, op, value as u64).expect("the number of an argument")
        };
        let rule = |conditions| SeccompRule::new(conditions).expect("there are conditions");
        let word = PAGE + field::OWNER;
        let futex = |operation: libc::c_int, more: Vec<SeccompCondition>| {
            let mut all = vec![is(0, Len::Qword, word), is(1, Len::Dword, operation as u64)];
            all.extend(more);
            rule(all)
        };
        let rules = [
            (
                libc::SYS_futex,
                vec![
                    // A guest may sleep only while the word says that hv has control. If it slept while it has control,
                    // at no cost for itself, hv's thread would have to wait.
                    futex(
                        libc::FUTEX_WAIT,
                        vec![is(2, Len::Dword, owner::HOST_GUEST_SLEEPS.into()), is(3, Len::Qword, 0)],
                    ),
                    futex(libc::FUTEX_WAKE, Vec::new()),
                ],
            ),
            (
                libc::SYS_write,
                vec![rule(vec![
                    compare(0, Op::Ge, FIRST_DOORBELL),
                    compare(0, Op::Lt, FIRST_DOORBELL + MAX_DOORBELLS as i32),
                    is(1, Len::Qword, PAGE + field::ONE),
                    is(2, Len::Qword, 8),
                ])],
            ),
        ];
        let (otherwise, allowed) = (SeccompAction::Trap, SeccompAction::Allow);
        let filter = SeccompFilter::new(rules.into(), otherwise, allowed, TargetArch::x86_64);
        let mut program: BpfProgram = filter.and_then(TryInto::try_into).expect("the rules are valid");
        // For system calls of another architecture (`int 0x80`) the crate makes the kernel kill the process. Then nothing can be reported.
        for instruction in &mut program {
            if instruction.code == RETURN && instruction.k == libc::SECCOMP_RET_KILL_PROCESS {
                instruction.k = libc::SECCOMP_RET_TRAP;
            }
        }
        program
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_forbidden_without_an_exception() {
        let returns = program().iter().filter(|instruction| instruction.code == RETURN);
        let actions: Vec<_> = returns.map(|instruction| instruction.k).collect();
        assert!(actions.contains(&libc::SECCOMP_RET_ALLOW));
        assert!(
            actions.iter().all(|&k| k == libc::SECCOMP_RET_ALLOW || k == libc::SECCOMP_RET_TRAP),
            "{actions:x?}"
        );
    }
}
