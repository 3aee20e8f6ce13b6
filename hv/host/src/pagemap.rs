//! The file with which a process finds its written pages: `/proc/self/pagemap`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::OnceLock;

/// The file, which is opened once. A process can open it only while it is dumpable (or root's): so it is
/// opened before the jail clears that flag. `None`, and a warning, where the host refuses.
pub fn pagemap() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    FILE.get_or_init(|| {
        File::open("/proc/self/pagemap")
            .inspect_err(|error| tracing::warn!("/proc/self/pagemap: {error}"))
            .ok()
    })
    .as_ref()
}
