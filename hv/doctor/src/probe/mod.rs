//! Asking the host. Nothing here changes anything, and each question is cheap.

mod calls;
mod guest;

use super::facts::{Facts, Limit, Memory, Process, Tap, Virtualization};
use hv_core::platform::kvm::KvmPlatform;
use hv_core::platform::process::Namespaces;
use hv_core::platform::process::ProcessPlatform;
use hv_host::limits::group::MEMORY;
use hv_host::machine::Machine;
use rustix::process::{Resource, getrlimit};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::time::Duration;

/// Everything about this host.
pub fn probe() -> Facts {
    let machine = Machine::of_this_host();
    Facts {
        kvm: kvm(),
        process: process(),
        no_seccomp: hv_core::platform::process::filters_are_possible().err().map(|error| error.to_string()),
        landlock: calls::landlock().map_err(|error| error.to_string()),
        no_io_uring: io_uring::IoUring::new(2).err().map(|error| error.to_string()),
        tap: tap(),
        max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        forbidding: forbidding(),
        files: limit(Resource::Nofile),
        processes: limit(Resource::Nproc),
        max_mappings: number("/proc/sys/vm/max_map_count"),
        huge_pages: ["enabled", "shmem_enabled"].map(|file| {
            let path = format!("/sys/kernel/mm/transparent_hugepage/{file}");
            chosen(&fs::read_to_string(path).ok()?)
        }),
        memory: memory(machine.memory),
        overcommit: number("/proc/sys/vm/overcommit_memory"),
        merging: number("/sys/kernel/mm/ksm/run"),
        pagemap_scan: calls::pagemap_scan(),
        invariant_tsc: calls::invariant_tsc(),
        rdrand: std::is_x86_feature_detected!("rdrand"),
        machine,
    }
}

/// Longest that a platform is measured.
const MEASURE: Duration = Duration::from_millis(100);

fn kvm() -> Virtualization {
    let hypercall = KvmPlatform::new()
        .map_err(|error| error.to_string())
        .and_then(|platform| guest::measure(&platform, MEASURE).map_err(|error| error.to_string()));
    Virtualization { hypercall }
}

fn process() -> Process {
    let platform = match ProcessPlatform::new() {
        Ok(platform) => platform,
        Err(error) => return Process { hypercall: Err(error.to_string()), no_namespaces: None },
    };
    Process {
        hypercall: guest::measure(&platform, MEASURE).map_err(|error| error.to_string()),
        no_namespaces: match platform.namespaces() {
            Namespaces::Own => None,
            Namespaces::Refused(reason) => Some(reason.clone()),
        },
    }
}

fn tap() -> Tap {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Tap::Usable { may_make: calls::has_net_admin() },
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Tap::NotPermitted,
        Err(_) => Tap::NoDevice,
    }
}

/// Settings that keep ordinary users from user namespaces, and the values that do not.
fn forbidding() -> Vec<&'static str> {
    [
        ("/proc/sys/kernel/unprivileged_userns_clone", 0, "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            1,
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ]
    .into_iter()
    .filter(|&(path, forbids, _)| number(path) == Some(forbids))
    .map(|(_, _, remedy)| remedy)
    .collect()
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn limit(resource: Resource) -> Limit {
    let limit = getrlimit(resource);
    Limit { soft: limit.current, hard: limit.maximum }
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

fn memory(total: u64) -> Memory {
    let available = hv_host::machine::available_memory().unwrap_or(total);
    let group = MEMORY.lowest().map(|(limit, _)| limit);
    // The first version of control groups has a number for "no limit" that is more than any host has.
    Memory { total, available, group: group.filter(|&limit| limit < total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernels_files_say() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("madvise"), None);
    }
}
