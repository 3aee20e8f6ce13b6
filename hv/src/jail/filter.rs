//! ⚠ From tables to seccomp filters, and the filter of a thread.

use super::{Kind, Platform, calls};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;
use std::io;

/// The filter of a kind. That of the thread that makes others allows what these may do, too,
/// since they inherit it, and put their own on top.
pub(super) fn program(kind: Kind, platform: Platform, makes: &[Kind]) -> BpfProgram {
    let mut rules = BTreeMap::new();
    let own = [kind].into_iter().chain(makes.iter().copied()).flat_map(|kind| calls::own(kind, platform));
    for row in calls::all(platform).chain(own) {
        let rules: &mut Option<Vec<_>> = rules.entry(row.number()).or_insert_with(|| Some(Vec::new()));
        match (row.compile(), rules) {
            // Any arguments: no condition of another row matters any more.
            (None, rules) => *rules = None,
            (Some(rule), Some(rules)) if !rules.contains(&rule) => rules.push(rule),
            _ => {}
        }
    }
    let rules = rules.into_iter().map(|(call, rules)| (call, rules.unwrap_or_default())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64);
    let filter = filter.expect("two actions that differ, and rules with conditions");
    filter.try_into().expect("the tables are far below the longest program")
}

/// Has `clone3` refused as unknown: a filter does not see its flags. The C library takes `clone` then.
/// To be put on before any other filter, which has to allow the call: the stricter filter wins.
pub(super) fn no_clone3() -> BpfProgram {
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64);
    filter.expect("two actions that differ").try_into().expect("one rule")
}

/// Whether this host lets a process set filters that trap.
pub(super) fn available() -> bool {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads one number, during the call only.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Puts a filter on the calling thread, for good.
pub(super) fn put_on(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        error => io::Error::other(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_filter() {
        for platform in [Platform::Kvm, Platform::Process] {
            for kind in Kind::ALL {
                let program = program(kind, platform, Kind::Serve.late());
                assert!(program.len() > 20 && program.len() < 1000, "{kind:?}: {}", program.len());
            }
        }
    }

    #[test]
    fn a_call_with_conditions_in_one_group_and_without_in_another_has_none() {
        // Reading the own counters again asks for no whence, reading crash reports does.
        let both = program(Kind::Serve, Platform::Kvm, &[Kind::Cpu]).len();
        let (one, other) =
            (program(Kind::Serve, Platform::Kvm, &[]).len(), program(Kind::Cpu, Platform::Kvm, &[]).len());
        assert!(both > one && both > other && both < one + other);
    }
}
