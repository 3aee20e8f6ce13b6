//! What makes guests and their devices faster.

use super::super::{Facts, Finding, State};

pub(super) fn io_uring(facts: &Facts) -> Finding {
    match &facts.no_io_uring {
        None => Finding::new("io-uring", State::Ok, "there", "disks use it"),
        Some(error) => Finding::new(
            "io-uring",
            State::Slower,
            format!("refused: {error}"),
            "disks use threads instead",
        )
        .remedy(
            "sysctl -w kernel.io_uring_disabled=0, or allow io_uring_setup in the container's seccomp policy",
        ),
    }
}

pub(super) fn huge_pages(facts: &Facts) -> Finding {
    let [private, shared] = &facts.huge_pages;
    let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "not told".into());
    let found = format!("private {}, shared {}", word(private), word(shared));
    let good = |word: &Option<String>| {
        matches!(word.as_deref(), Some("always" | "madvise" | "advise" | "within_size" | "force"))
    };
    match (good(private), good(shared)) {
        (true, true) => {
            Finding::new("huge-pages", State::Ok, found, "guests with much memory have fewer TLB misses")
        }
        (true, false) => {
            let means =
                "on KVM, guests with much memory can have them; in processes, memory is in pages of 4 KiB";
            Finding::new("huge-pages", State::Slower, found, means)
                .remedy("echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled")
        }
        (false, _) => {
            let means = "guests' memory is in pages of 4 KiB: more TLB misses for guests with much memory";
            Finding::new("huge-pages", State::Slower, found, means)
                .remedy("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        }
    }
}

pub(super) fn pagemap_scan(facts: &Facts) -> Finding {
    match facts.pagemap_scan {
        true => {
            Finding::new("pagemap-scan", State::Ok, "there", "clones are reset by their written pages alone")
        }
        false => Finding::new(
            "pagemap-scan",
            State::Slower,
            "refused",
            "hv reads the page map entry by entry: resets of clones take longer",
        )
        .remedy("use Linux 6.7 or newer"),
    }
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let found = format!("{:.0} MHz, {}", f64::from(facts.machine.tsc_khz) / 1e3, facts.machine.clock_source);
    let finding = match facts.invariant_tsc {
        true => Finding::new(
            "tsc",
            State::Ok,
            format!("invariant, {found}"),
            "guests read the time without an exit, and it is right",
        ),
        false => Finding::new(
            "tsc",
            State::Weaker,
            format!("not invariant, {found}"),
            "guests' clocks run unevenly when the processor changes its speed",
        )
        .remedy("show the invariant counter to this virtual machine (invtsc), or use a newer processor"),
    };
    finding.figure("tsc_khz_count", u64::from(facts.machine.tsc_khz))
}

pub(super) fn random(facts: &Facts) -> Finding {
    match facts.rdrand {
        true => {
            Finding::new("rdrand", State::Ok, "there", "guests add the processor's random numbers to hv's")
        }
        false => Finding::new(
            "rdrand",
            State::Weaker,
            "not there",
            "guests have the random seed that hv gives, and nothing else",
        )
        .remedy("show RDRAND to this virtual machine, if it is one"),
    }
}
