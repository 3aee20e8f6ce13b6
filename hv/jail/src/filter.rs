//! ⚠ From tables to seccomp filters, and the filter of a thread.
#![allow(unsafe_code, reason = "asking whether there are filters")]

use super::{Kind, Platform, calls};
use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, sock_filter};
use std::collections::BTreeMap;
use std::io;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const ALLOW: sock_filter = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW);
const TRAP: sock_filter = statement(BPF_RET | BPF_K, libc::SECCOMP_RET_TRAP);

/// A call, and the rules of which one has to hold; with none, all arguments are right.
type Allowed = (u32, Vec<SeccompRule>);

/// The filter of a kind, in a process whose guests have shares, or have none. That of the thread that makes others allows what these may do, too,
/// since they inherit it, and put their own on top.
pub(super) fn program(kind: Kind, platform: Platform, shares: bool, makes: &[Kind]) -> BpfProgram {
    let mut rules = BTreeMap::new();
    let own = [kind].into_iter().chain(makes.iter().copied()).flat_map(|kind| calls::own(kind, platform));
    for row in calls::all(platform).chain(own).filter(|row| shares || !row.is_for_shares()) {
        let number = u32::try_from(row.number()).expect("numbers of calls are small");
        let rules: &mut Option<Vec<_>> = rules.entry(number).or_insert_with(|| Some(Vec::new()));
        match (row.compile(), rules) {
            // Any arguments: no condition of another row matters any more.
            (None, rules) => *rules = None,
            (Some(rule), Some(rules)) if !rules.contains(&rule) => rules.push(rule),
            _ => {}
        }
    }
    let allowed: Vec<Allowed> =
        rules.into_iter().map(|(call, rules)| (call, rules.unwrap_or_default())).collect();
    let mut program = vec![
        statement(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE),
        jump(BPF_JEQ, X86_64, 1, 0),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
        statement(BPF_LD | BPF_W | BPF_ABS, NUMBER),
    ];
    program.append(&mut tree(&allowed));
    program
}

/// Finds the call by halving. When a filter is put on, the kernel runs it for each call that there is: in a
/// program that compares with one after the other, as seccompiler makes it, that takes ten times as long.
fn tree(allowed: &[Allowed]) -> BpfProgram {
    let [(number, rules)] = allowed else {
        let (below, above) = allowed.split_at(allowed.len() / 2);
        let mut below = tree(below);
        let skip = u32::try_from(below.len()).expect("programs are short");
        let mut program = vec![jump(BPF_JGE, above[0].0, 0, 1), statement(BPF_JMP | BPF_JA, skip)];
        program.append(&mut below);
        program.append(&mut tree(above));
        return program;
    };
    let mut program = vec![jump(BPF_JEQ, *number, 1, 0), TRAP];
    for rule in rules {
        let conditions: BpfProgram = rule.clone().into();
        // Removes the two jumps with which seccompiler skips a rule of another call.
        // If a condition does not hold, it goes on behind the next instruction.
        program.extend(conditions.into_iter().skip(2));
        program.push(ALLOW);
    }
    program.push(if rules.is_empty() { ALLOW } else { TRAP });
    program
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | condition | BPF_K) as u16, jt, jf, k }
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
                let program = program(kind, platform, true, Kind::Serve.late());
                assert!(program.len() > 20 && program.len() < 1000, "{kind:?}: {}", program.len());
            }
        }
    }

    #[test]
    fn a_call_with_conditions_in_one_group_and_without_in_another_has_none() {
        // Reading the own counters again asks for no whence, reading crash reports does.
        let both = program(Kind::Serve, Platform::Kvm, false, &[Kind::Cpu]).len();
        let alone = |kind| program(kind, Platform::Kvm, false, &[]).len();
        let (one, other) = (alone(Kind::Serve), alone(Kind::Cpu));
        assert!(both > one && both > other && both < one + other);
    }

    #[test]
    fn who_runs_guests_looks_up_paths_only_where_they_have_shares() {
        for kind in [Kind::Run, Kind::Snapshot, Kind::Cpu, Kind::Io] {
            let looks_up = |shares| {
                let program = program(kind, Platform::Kvm, shares, &[]);
                program.contains(&jump(BPF_JEQ, libc::SYS_openat2 as u32, 1, 0))
            };
            assert!(looks_up(true) && !looks_up(false), "{kind:?}");
        }
    }
}
