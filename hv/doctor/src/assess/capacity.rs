//! How many guests there is room for.

use super::super::{Facts, Finding, Limit, State};
use super::size;

/// Descriptors of hv itself, and most of a guest: its virtual CPU or memory and process, and two of doorbells.
const OWN_FILES: u64 = 64;
const GUEST_FILES: u64 = 4;

/// Mappings of hv itself, and of a guest.
const OWN_MAPPINGS: u64 = 1000;
const GUEST_MAPPINGS: u64 = 2;

/// Bytes of the kernel for a guest, and pages that the smallest ones touch (docs/performance.md, clones).
const GUEST_KERNEL: u64 = 613 << 10;
const GUEST_PAGES: u64 = 64 << 10;

/// Below this number of guests, a remedy is shown: `hv serve` keeps as many.
const MANY: u64 = 1024;

/// Below this number, guests cannot run: hv itself and a guest with devices need as many.
const FEW: u64 = 8;

fn count(limit: Option<u64>) -> String {
    limit.map_or("no limit".into(), |limit| limit.to_string())
}

fn by_guest_count(guests: u64) -> State {
    match guests {
        ..FEW => State::Missing,
        FEW..MANY => State::Weaker,
        _ => State::Ok,
    }
}

pub(super) fn files(facts: &Facts) -> Finding {
    let Limit { soft, hard } = facts.files;
    let found = format!("{} (hard: {})", count(soft), count(hard));
    let Some(limit) = hard else {
        return Finding::new("open-files", State::Ok, found, "any number of guests");
    };
    let guests = limit.saturating_sub(OWN_FILES) / GUEST_FILES;
    let means = format!("descriptors for {guests} guests; hv serve raises the limit to the hard one itself");
    let finding = Finding::new("open-files", by_guest_count(guests), found, means)
        .figure("hard_count", limit)
        .figure("guests_count", guests);
    let finding = soft.iter().fold(finding, |finding, soft| finding.figure("soft_count", *soft));
    match finding.state {
        State::Ok => finding,
        _ => {
            finding.remedy("raise the hard limit: LimitNOFILE= of the service, or /etc/security/limits.conf")
        }
    }
}

pub(super) fn processes(facts: &Facts) -> Finding {
    let Limit { soft, .. } = facts.processes;
    let found = count(soft);
    let Some(limit) = soft else {
        return Finding::new(
            "processes",
            State::Ok,
            found,
            "any number of threads, and of guests in processes",
        );
    };
    let means =
        "hv needs some ten threads, and a process for each guest without KVM; all of this user's count";
    let finding = Finding::new("processes", by_guest_count(limit), found, means).figure("soft_count", limit);
    match finding.state {
        State::Ok => finding,
        _ => finding.remedy("raise it: ulimit -u, or TasksMax= of the service"),
    }
}

pub(super) fn mappings(facts: &Facts) -> Finding {
    let Some(limit) = facts.max_mappings else {
        return Finding::new("mappings", State::Ok, "not told", "the host does not say how many");
    };
    let guests = limit.saturating_sub(OWN_MAPPINGS) / GUEST_MAPPINGS;
    let finding = Finding::new(
        "mappings",
        by_guest_count(guests),
        limit.to_string(),
        format!("memory maps of {guests} guests"),
    )
    .figure("limit_count", limit)
    .figure("guests_count", guests);
    match finding.state {
        State::Ok => finding,
        _ => finding.remedy("sysctl -w vm.max_map_count=1048576"),
    }
}

pub(super) fn memory(facts: &Facts) -> Finding {
    let memory = facts.memory;
    let usable = memory.group.map_or(memory.available, |group| group.min(memory.available));
    let guests = usable / (GUEST_KERNEL + GUEST_PAGES);
    let group = memory.group.map_or(String::new(), |group| format!(", control group: {}", size(group)));
    let found = format!("{} of {} available{group}", size(memory.available), size(memory.total));
    let means = format!(
        "some {guests} small clones of a guest: 0.6 MiB of the kernel each, and the pages they touch"
    );
    let finding = Finding::new("memory", by_guest_count(guests), found, means)
        .figure("total_bytes", memory.total)
        .figure("available_bytes", memory.available)
        .figure("guests_count", guests);
    let finding = memory.group.iter().fold(finding, |finding, group| finding.figure("group_bytes", *group));
    match finding.state {
        State::Ok => finding,
        _ => finding
            .remedy("free memory, or raise the control group's limit (memory.max, docker run --memory)"),
    }
}

pub(super) fn overcommit(facts: &Facts) -> Finding {
    match facts.overcommit {
        Some(2) => {
            let means =
                "the kernel counts the whole memory of each guest, not what it touches: fewer guests start";
            Finding::new("overcommit", State::Weaker, "never (2)", means)
                .remedy("sysctl -w vm.overcommit_memory=0, or a smaller --memory")
        }
        found => {
            let found = if found == Some(1) { "always (1)" } else { "by estimate (0)" };
            Finding::new("overcommit", State::Ok, found, "guests take the memory that they touch")
        }
    }
}

/// Nothing needs it but guests that were given `--share-equal-pages`.
pub(super) fn equal_pages(facts: &Facts) -> Finding {
    const NAME: &str = "equal-pages";
    match facts.merging {
        Some(1) => {
            Finding::new(NAME, State::Ok, "merged", "guests with --share-equal-pages have equal pages once")
        }
        Some(_) => {
            // As it is on most hosts, and for most guests as it should be: no lack.
            let means = "guests with --share-equal-pages share nothing before root starts it: \
                         echo 1 > /sys/kernel/mm/ksm/run";
            Finding::new(NAME, State::Ok, "not merged: KSM does not run", means)
        }
        None => Finding::new(NAME, State::Weaker, "no KSM", "--share-equal-pages is refused")
            .remedy("a kernel with CONFIG_KSM, if it is wanted"),
    }
}
