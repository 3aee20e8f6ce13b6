//! The machine that a result was taken on.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The properties of the host that a figure depends on, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// The kernel's release and version.
    pub kernel: String,
    /// The KVM module: `kvm_intel`, `kvm_amd`, `kvm_pvm`, or another; `unknown` if the host does not say.
    pub kvm: String,
    /// Whether the processor itself runs guests (VT-x, SVM); without, KVM does it in software.
    pub hardware_virtualization: bool,
    /// Whether this host is a virtual machine itself.
    pub nested: bool,
    /// The kernel's clock source.
    pub clock_source: String,
    /// Frequency of the time-stamp counter in kHz.
    pub tsc_khz: u32,
    /// How the processor's frequency is governed; `none` where the host cannot change it.
    pub frequency_scaling: String,
    /// The kernel's mitigation of each vulnerability of the processor.
    pub mitigations: BTreeMap<String, String>,
}

/// One line of a file of the kernel.
fn line(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}

/// Names of a folder's entries, sorted.
fn entries(path: &str) -> Vec<String> {
    let Ok(folder) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<_> =
        folder.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The value of a line `KEY: VALUE`.
fn field(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What the kernel does with memory that takes part in sharing equal pages (KSM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EqualPages {
    /// It has no KSM.
    None,
    /// Nothing, until root starts it.
    Stopped,
    /// It shares them.
    Shared,
}

impl EqualPages {
    /// How root starts it.
    pub const REMEDY: &str = "echo 1 > /sys/kernel/mm/ksm/run";

    /// What this host's kernel does now.
    pub fn of_this_host() -> EqualPages {
        match line("/sys/kernel/mm/ksm/run").as_deref() {
            None => EqualPages::None,
            Some("1") => EqualPages::Shared,
            Some(_) => EqualPages::Stopped,
        }
    }
}

/// Bytes of memory of this host, if it says that.
pub fn memory() -> Option<u64> {
    of_meminfo("MemTotal")
}

/// Bytes of memory that this host could still give, as the kernel estimates it.
pub fn available_memory() -> Option<u64> {
    of_meminfo("MemAvailable")
}

/// Bytes of a line of /proc/meminfo (proc(5)).
fn of_meminfo(key: &str) -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = field(&meminfo, key)?.split(' ').next()?.parse::<u64>().ok()?;
    Some(kib << 10)
}

impl Machine {
    /// Looks at this machine.
    pub fn of_this_host() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpuinfo, "flags").unwrap_or_default();
        let has = |flag: &str| flags.split(' ').any(|have| have == flag);
        let unknown = || "unknown".to_owned();
        Machine {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory: memory().unwrap_or(0),
            kernel: kernel().unwrap_or_else(unknown),
            kvm: kvm_module(&entries("/sys/module"), &has),
            hardware_virtualization: has("vmx") || has("svm"),
            nested: has("hypervisor"),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_else(unknown),
            tsc_khz: crate::clock::tsc_khz(),
            frequency_scaling: frequency_scaling(),
            mitigations: entries("/sys/devices/system/cpu/vulnerabilities")
                .into_iter()
                .filter_map(|name| {
                    let state = line(format!("/sys/devices/system/cpu/vulnerabilities/{name}"))?;
                    Some((name, state))
                })
                .collect(),
        }
    }
}

fn kernel() -> Option<String> {
    let (release, version) =
        (line("/proc/sys/kernel/osrelease")?, line("/proc/sys/kernel/version").unwrap_or_default());
    Some(format!("Linux {release} {version}").trim().to_owned())
}

/// The module that implements KVM. If KVM is built into the kernel, only the processor's features may show
/// it.
fn kvm_module(modules: &[String], has: &dyn Fn(&str) -> bool) -> String {
    match modules.iter().find(|name| name.starts_with("kvm_")) {
        Some(module) => module.clone(),
        None if has("vmx") => "kvm_intel".into(),
        None if has("svm") => "kvm_amd".into(),
        None => "unknown".into(),
    }
}

fn frequency_scaling() -> String {
    let cpufreq = "/sys/devices/system/cpu/cpu0/cpufreq";
    let Some(governor) = line(format!("{cpufreq}/scaling_governor")) else { return "none".into() };
    let driver = line(format!("{cpufreq}/scaling_driver")).unwrap_or_default();
    let boost = match line("/sys/devices/system/cpu/cpufreq/boost")
        .or_else(|| line("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|off| (off == "0").to_string()))
        .as_deref()
    {
        Some("1" | "true") => ", boost on",
        Some(_) => ", boost off",
        None => "",
    };
    format!("{governor} ({driver}){boost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_kernels_files() {
        let text = "processor\t: 0\nmodel name\t: A: B\nmodel\t: 7\nMemTotal:       24 kB\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A: B"));
        assert_eq!(field(text, "model").as_deref(), Some("7"));
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24 kB"));
        assert_eq!(field(text, "flags"), None);
    }

    #[test]
    fn the_module_is_found_loaded_or_built_in() {
        let modules = ["fuse", "kvm", "kvm_pvm"].map(str::to_owned);
        assert_eq!(kvm_module(&modules, &|_| false), "kvm_pvm");
        assert_eq!(kvm_module(&modules[..2], &|flag| flag == "svm"), "kvm_amd");
        assert_eq!(kvm_module(&[], &|_| false), "unknown");
    }

    #[test]
    fn this_host_has_a_processor_and_a_counter() {
        let machine = Machine::of_this_host();
        assert!(machine.cores > 0 && machine.tsc_khz > 0 && machine.memory > 0);
        assert!(machine.kernel.starts_with("Linux "));
    }
}
