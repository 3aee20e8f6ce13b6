//! Crash reports of images whose debug information is made to cost the host as much as possible.

use hv::crash::{Budget, SymbolCache, Symbols};
use hv_tests::debug::{Endless, with_debug_info};
use hv_tests::{Platform, guest, guest_test};
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

/// Debug information of this size for each attack.
const SIZE: usize = 8 << 20;

#[test]
fn endless_tables_use_up_the_budget_and_no_more() {
    let image = fs::read(guest("crash")).unwrap();
    for endless in Endless::ALL {
        let bytes = with_debug_info(&image, endless, SIZE);
        let known = SymbolCache::default();
        let whole = Budget { rows: 10_000, entries: 100_000, bytes: 1_000_000 };
        let mut budget = whole;
        let found = Symbols::new(&bytes, 0x1000, &known).lookup(0x1000 + 0x3480, &mut budget);
        assert_eq!(found.frames.len(), 1, "{endless:?}");
        // Tables that claim to be endless and have no bytes are none.
        let is_refused = endless == Endless::Files;
        assert_eq!(found.missing.is_some(), !is_refused, "{endless:?}: {budget:?}");
        assert!(budget.rows < whole.rows || budget.entries < whole.entries, "{endless:?}: {budget:?}");
        assert_eq!(budget.rows == 0, endless == Endless::Rows, "{endless:?}: {budget:?}");
        assert_eq!(budget.bytes == 0, endless == Endless::Units, "{endless:?}: {budget:?}");
    }
}

/// Runs hv to its end: its exit code, what it said, and the most memory that it had, in KiB.
#[allow(clippy::zombie_processes, reason = "`wait4` waits for it: that tells what it used")]
fn measured(platform: Platform, image: &Path) -> (Option<i32>, String, i64) {
    let mut command = platform.run(image.to_str().unwrap(), &[], &["null"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: all bytes zero are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places live during the call.
    let ended = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(ended, child.id() as i32);
    (ExitStatus::from_raw(status).code(), said, usage.ru_maxrss)
}

#[guest_test]
fn a_guest_with_endless_debug_information_is_reported_on_and_does_not_grow_hv(platform: Platform) {
    let honest = fs::read(guest("crash")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endless");
    for endless in Endless::ALL {
        fs::write(&path, with_debug_info(&honest, endless, SIZE)).unwrap();
        let (code, said, memory) = measured(platform, &path);
        assert_eq!(code, Some(101), "{endless:?}: {said}");
        assert!(said.starts_with("guest endless crashed: null pointer"), "{endless:?}: {said}");
        // The symbol table needs no debug information, and callers are in tables of their own.
        assert!(said.contains("crash::main"), "{endless:?}: {said}");
        assert!(memory < 200 << 10, "{endless:?}: {memory} KiB");
    }
}
