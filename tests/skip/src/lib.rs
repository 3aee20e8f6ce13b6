//! Tests that are left out, and whether that is all right.
//!
//! With `HV_REQUIRE` set, a test may be left out only for what stands in the list below; with `HV_SKIPS` naming a
//! file, that gets a line for each. `.ci/run` sets both, where there is KVM.
//!
//! Unit tests of every crate and the integration tests use this one function, so that the file names all.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// What may be missing on any host, by how the reason begins, and why that is no fault of the host's.
const ALLOWED: [(&str, &str); 20] = [
    ("needs a file system with O_DIRECT", "not all have it"),
    ("needs io_uring", "containers and administrators refuse it, old kernels lack parts of it"),
    ("needs a machine that is less busy", "parts of processors are measured, which others may want"),
    ("needs a /dev/kvm that", "the mode of the device is the administrator's"),
    ("needs an hv that other users may run", "the checkout may lie in a private folder"),
    ("needs kvm for", "likewise"),
    ("needs process for", "users may be kept from making namespaces"),
    ("needs a /dev/net/tun", "containers have none"),
    ("needs FUSE", "likewise"),
    ("needs a tap device", "likewise"),
    ("needs the right to", "containers lack many"),
    ("needs root", "tests run as ordinary users, too"),
    ("needs a user who is not root", "likewise"),
    ("needs user and mount namespaces", "an administrator may forbid them"),
    ("needs a control group", "containers may not make any"),
    ("needs a host where ports", "the range is the administrator's"),
    ("needs an hv that is not traced", "coverage and debuggers trace"),
    ("needs logs of system calls", "`.ci/jail-usage` makes them"),
    ("needs /dev/shm", "containers may have none"),
    ("this kernel makes neither", "whether a guest costs a process number is the kernel's"),
];

/// Says that the test that calls it is left out, and why.
///
/// # Panics
///
/// If `HV_REQUIRE` is set, and the reason is none that is allowed.
pub fn skip(reason: impl Display) {
    let reason = reason.to_string();
    println!("skipped: {reason}");
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    if let Some(path) = std::env::var_os("HV_SKIPS") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        // One write: other tests append at the same time.
        let line = format!("{test}: {reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file of skips can be written");
    }
    let allowed = ALLOWED.iter().any(|(beginning, _)| reason.starts_with(beginning));
    assert!(allowed || std::env::var_os("HV_REQUIRE").is_none(), "left out, and HV_REQUIRE is set: {reason}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_has_to_have_is_not_on_the_list() {
        for reason in ["needs the platform kvm: No such file", "needs mkfs.ext4", "needs Landlock"] {
            assert!(!ALLOWED.iter().any(|(beginning, _)| reason.starts_with(beginning)), "{reason}");
        }
    }
}
