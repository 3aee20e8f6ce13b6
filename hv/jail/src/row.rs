//! A row of the tables: a system call, which of its arguments matter, and why it is allowed.

use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use std::fmt;
use syscalls::Sysno;

/// What one argument of a call has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Which argument, from 0.
    arg: u8,
    /// The bits that matter.
    mask: u64,
    /// What they have to be.
    value: u64,
    /// How the kernel sees the argument: its lower half, or all of it.
    wide: bool,
    /// The condition in words, after "argument N".
    words: &'static str,
    /// The value is this process's number, which is known when the filter is made.
    itself: bool,
}

impl Check {
    /// The lower half of an argument has this value. The kernel takes numbers of
    /// requests, flags and the like as `unsigned int`, whatever the upper half is.
    const fn is(arg: u8, value: u32, words: &'static str) -> Check {
        Check { arg, mask: u32::MAX as u64, value: value as u64, wide: false, words, itself: false }
    }

    /// None of these bits is set.
    const fn without(arg: u8, mask: u64, words: &'static str) -> Check {
        Check { arg, mask, value: 0, wide: true, words, itself: false }
    }

    /// An argument is the number of this process.
    const fn itself(arg: u8) -> Check {
        Check { arg, mask: 0, value: 0, wide: false, words: "hv itself", itself: true }
    }

    /// Which argument, from 0.
    pub fn argument(&self) -> u8 {
        self.arg
    }

    /// Which of its bits matter.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// What these bits have to be.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Whether arguments that a call was seen with meet it.
    pub fn holds(&self, arguments: &[u64]) -> bool {
        arguments.get(usize::from(self.arg)).is_some_and(|seen| seen & self.mask == self.value)
    }

    fn compile(&self) -> SeccompCondition {
        let (len, op) = if self.wide {
            (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(self.mask))
        } else {
            (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq)
        };
        let value = if self.itself { u64::from(std::process::id()) } else { self.value };
        SeccompCondition::new(self.arg, len, op, value).expect("a call has six arguments")
    }
}

/// Where a row is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NeededOn {
    Always,
    /// On this platform.
    On(super::Platform),
    /// In builds with debug assertions: the standard library looks at each descriptor before it closes it.
    Debug,
    /// Where guests have [shares](super::Plan::shares).
    Shares,
}

/// One allowed system call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    call: Sysno,
    /// All have to hold.
    checks: [Option<Check>; 2],
    why: &'static str,
    pub(super) only: NeededOn,
    elsewhere: bool,
}

impl Row {
    /// The call's number.
    pub fn number(&self) -> i64 {
        i64::from(self.call.id())
    }

    /// The call's name.
    pub fn name(&self) -> &'static str {
        self.call.name()
    }

    /// Conditions on its arguments; all have to hold.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().flatten()
    }

    /// Why the call is needed.
    pub fn why(&self) -> &'static str {
        self.why
    }

    /// Whether it is needed only on hosts that lack something that most have, or with other
    /// versions of the C library.
    pub fn is_for_other_hosts(&self) -> bool {
        self.elsewhere
    }

    /// Whether it is allowed only where guests have [shares](super::Plan::shares).
    pub fn is_for_shares(&self) -> bool {
        self.only == NeededOn::Shares
    }

    /// The seccomp rule, or `None` if all arguments are right.
    pub(super) fn compile(&self) -> Option<SeccompRule> {
        let conditions: Vec<_> = self.checks().map(Check::compile).collect();
        (!conditions.is_empty()).then(|| SeccompRule::new(conditions).expect("it has conditions"))
    }

    pub(super) const fn debug(self) -> Row {
        Row { only: NeededOn::Debug, ..self }
    }

    pub(super) const fn elsewhere(self) -> Row {
        Row { elsewhere: true, ..self }
    }

    pub(super) const fn with_shares(self) -> Row {
        Row { only: NeededOn::Shares, ..self }
    }

    pub(super) const fn on(self, platform: super::Platform) -> Row {
        Row { only: NeededOn::On(platform), ..self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (n, check) in self.checks().enumerate() {
            let before = if n == 0 { "(" } else { ", " };
            write!(f, "{before}{}", check.words)?;
        }
        if self.checks[0].is_some() {
            f.write_str(")")?;
        }
        if self.is_for_shares() { f.write_str(" with shares") } else { Ok(()) }
    }
}

/// A call with any arguments.
pub(super) const fn any(call: Sysno, why: &'static str) -> Row {
    Row { call, checks: [None, None], why, only: NeededOn::Always, elsewhere: false }
}

/// A call with one argument of a value, which the words name.
pub(super) const fn with(call: Sysno, arg: u8, value: u32, words: &'static str, why: &'static str) -> Row {
    Row {
        call,
        checks: [Some(Check::is(arg, value, words)), None],
        why,
        only: NeededOn::Always,
        elsewhere: false,
    }
}

/// A call with two arguments of a value each.
pub(super) const fn with_both(
    call: Sysno,
    first: (u8, u32, &'static str),
    second: (u8, u32, &'static str),
    why: &'static str,
) -> Row {
    let checks = [Some(Check::is(first.0, first.1, first.2)), Some(Check::is(second.0, second.1, second.2))];
    Row { call, checks, why, only: NeededOn::Always, elsewhere: false }
}

/// A call whose first argument is the process that is meant, which has to be hv itself.
pub(super) const fn to_itself(call: Sysno, why: &'static str) -> Row {
    Row { call, checks: [Some(Check::itself(0)), None], why, only: NeededOn::Always, elsewhere: false }
}

/// A call with an argument that lacks some bits.
pub(super) const fn without(call: Sysno, arg: u8, mask: u64, words: &'static str, why: &'static str) -> Row {
    Row {
        call,
        checks: [Some(Check::without(arg, mask, words)), None],
        why,
        only: NeededOn::Always,
        elsewhere: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_they_allow() {
        let row = with(Sysno::ioctl, 1, 0xae80, "KVM_RUN", "runs a guest");
        assert_eq!(row.to_string(), "ioctl(KVM_RUN)");
        let check = row.checks().next().unwrap();
        // The kernel looks at the lower half only.
        assert!(check.holds(&[3, 0xae80]) && check.holds(&[3, 0xffff_0000_0000_ae80]));
        assert!(!check.holds(&[3, 0xae81]) && !check.holds(&[3]));
        let row = without(Sysno::mmap, 2, libc::PROT_EXEC as u64, "not executable", "memory");
        let check = row.checks().next().unwrap();
        assert!(check.holds(&[0, 0, 3]) && !check.holds(&[0, 0, 7]));
        assert_eq!(any(Sysno::close, "").to_string(), "close");
        assert_eq!(any(Sysno::statx, "").with_shares().to_string(), "statx with shares");
    }
}
