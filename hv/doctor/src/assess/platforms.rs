//! What runs guests.

use super::super::{Facts, Finding, State};
use super::micros;
use std::time::Duration;

/// A hypercall that takes longer than this is one of software KVM or of a nested one.
const FAST: Duration = Duration::from_micros(3);

pub(super) fn kvm(facts: &Facts) -> Finding {
    match &facts.kvm.hypercall {
        Ok(cost) => {
            let (kind, hardware) = (&facts.machine.kvm, facts.machine.hardware_virtualization);
            let how = if hardware { "hardware" } else { "software" };
            let nested = if facts.machine.nested { ", nested" } else { "" };
            let found = format!("{kind} ({how}{nested}), {} for an exit to hv and back", micros(*cost));
            let finding = match *cost > FAST || !hardware {
                true => {
                    let means = "guests run at full speed between exits; each exit is dear";
                    Finding::new("kvm", State::Slower, found, means)
                }
                false => {
                    Finding::new("kvm", State::Ok, found, "guests run at full speed, and exits are cheap")
                }
            };
            finding.figure("exit_ns", cost.as_nanos() as u64)
        }
        Err(error) => lacking("kvm", error, "no guest runs on KVM; processes are the other way"),
    }
}

/// A platform that cannot be had: its errors are written as `what: remedy`.
fn lacking(name: &'static str, error: &str, means: &str) -> Finding {
    let error = error.strip_prefix("platform process: ").unwrap_or(error);
    // Errors that have a remedy are written so; others are shown as they are.
    let parts =
        error.split_once("; ").or_else(|| error.rsplit_once(": ").filter(|_| error.starts_with("/dev/kvm")));
    match parts {
        Some((what, remedy)) => Finding::new(name, State::Missing, what, means).remedy(remedy),
        None => Finding::new(name, State::Missing, error, means)
            .remedy("look at this error with `hv -vv run`, or use another kernel"),
    }
}

pub(super) fn process(facts: &Facts) -> Finding {
    let cost = match &facts.process.hypercall {
        Ok(cost) => cost,
        Err(error) => return lacking("process", error, "no guest runs without KVM"),
    };
    let found = format!("{} for a hypercall", micros(*cost));
    let finding = match &facts.process.no_namespaces {
        None => {
            let means = "guests run without KVM: behind a system-call filter, in namespaces of their own";
            Finding::new("process", State::Ok, found, means)
        }
        Some(reason) => {
            let means =
                format!("guests run without KVM behind a system-call filter alone: no namespaces, {reason}");
            Finding::new("process", State::Weaker, found, means).remedy("see user-namespaces below")
        }
    };
    finding.figure("hypercall_ns", cost.as_nanos() as u64)
}

pub(super) fn auto(facts: &Facts, platform: Option<&'static str>) -> Finding {
    let name = "platform-auto";
    match platform {
        Some("kvm") => {
            Finding::new(name, State::Ok, "kvm", "--platform auto takes KVM: the wall of a virtual machine")
        }
        Some(other) => {
            let means = "--platform auto takes processes, since KVM is not there: the kernel's system-call filter is the wall";
            Finding::new(name, State::Weaker, other, means).remedy("see kvm above")
        }
        None => {
            let both = facts.kvm.hypercall.is_err() && facts.process.hypercall.is_err();
            debug_assert!(both, "a platform that works is taken");
            Finding::new(name, State::Missing, "none", "no guest can run on this host")
                .remedy("see kvm and process above")
        }
    }
}
