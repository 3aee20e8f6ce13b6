//! What system calls the process of a guest can make.

use super::shared::{FIRST_DOORBELL, MAX_DOORBELLS, PAGE, field};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::sync::OnceLock;

/// The calls, for the threat model: name, and on what.
pub const ALLOWED: [(&str, &str); 2] = [
    ("futex", "FUTEX_WAIT without a timeout and FUTEX_WAKE, on the word of turns"),
    ("write", "the number 1 to an eventfd of a doorbell"),
];

/// The filter, as the kernel wants it. Whatever it does not allow is an exception of the guest; a
/// system call of another architecture (32-bit) ends the process.
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
        let turn = PAGE + field::TURN;
        let futex = |operation: libc::c_int, more: Vec<SeccompCondition>| {
            let mut all = vec![is(0, Len::Qword, turn), is(1, Len::Dword, operation as u64)];
            all.extend(more);
            rule(all)
        };
        let rules = [
            (
                libc::SYS_futex,
                vec![
                    futex(libc::FUTEX_WAIT, vec![is(3, Len::Qword, 0)]),
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
        filter.and_then(TryInto::try_into).expect("the rules are valid")
    })
}
