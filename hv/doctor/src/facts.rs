//! The facts about a host.

use hv_host::machine::Machine;
use std::time::Duration;

/// A platform that could be made, and what a tiny guest on it needed for a hypercall, there and back.
pub type Measured = Result<Duration, String>;

/// What KVM is here.
#[derive(Clone, Debug)]
pub struct Virtualization {
    /// Whether a guest ran, and how fast; or why none can.
    pub hypercall: Measured,
}

/// What the process platform is here.
#[derive(Clone, Debug)]
pub struct Process {
    /// Whether a guest ran, and how fast; or why none can.
    pub hypercall: Measured,
    /// Why its processes have no namespaces of their own, if there are any processes.
    pub no_namespaces: Option<String>,
}

/// What is in the way of tap devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// Nothing; and whether this process may make devices itself.
    Usable {
        /// CAP_NET_ADMIN.
        may_make: bool,
    },
    /// There is no /dev/net/tun.
    NoDevice,
    /// It cannot be opened.
    NotPermitted,
}

/// A limit of this process; `None` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What counts now.
    pub soft: Option<u64>,
    /// How far it can be raised.
    pub hard: Option<u64>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the host.
    pub total: u64,
    /// Not in use.
    pub available: u64,
    /// Of the control group, if it has a limit.
    pub group: Option<u64>,
}

/// All that [`assess`](super::assess) needs to know.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The processor and the kernel.
    pub machine: Machine,
    /// KVM.
    pub kvm: Virtualization,
    /// Processes.
    pub process: Process,
    /// Why system-call filters are refused, if they are.
    pub no_seccomp: Option<String>,
    /// The version of Landlock's interface; or why there is none.
    pub landlock: Result<u32, String>,
    /// Why io_uring is refused, if it is.
    pub no_io_uring: Option<String>,
    /// Tap devices.
    pub tap: Tap,
    /// `user.max_user_namespaces`
    pub max_user_namespaces: Option<u64>,
    /// Sysctls that forbid user namespaces to ordinary users, as `name=value` that allows them.
    pub forbidding: Vec<&'static str>,
    /// Open files.
    pub files: Limit,
    /// Processes and threads of this user.
    pub processes: Limit,
    /// `vm.max_map_count`: memory mappings of a process.
    pub max_mappings: Option<u64>,
    /// Transparent huge pages of private memory, and of shared memory: the chosen words.
    pub huge_pages: [Option<String>; 2],
    /// Memory.
    pub memory: Memory,
    /// `vm.overcommit_memory`
    pub overcommit: Option<u64>,
    /// `/sys/kernel/mm/ksm/run`: whether the kernel merges equal pages (1), if it can.
    pub merging: Option<u64>,
    /// Whether the kernel has `PAGEMAP_SCAN`.
    pub pagemap_scan: bool,
    /// Whether the time-stamp counter runs at one speed through all power states.
    pub invariant_tsc: bool,
    /// Whether guests can have random numbers from the processor.
    pub rdrand: bool,
}
