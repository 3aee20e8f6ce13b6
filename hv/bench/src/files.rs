//! The folder that operations on files work in: as a share of a guest, and by the host's own calls.
#![forbid(unsafe_code)]

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use tempfile::TempDir;

/// Files in [`Files::NAMES`], each of one byte and named by five digits.
pub(super) const COUNT: u64 = 10_000;

/// Bytes of [`Files::LARGE`].
pub(super) const LARGE: u64 = 64 << 20;

/// The folder, which is made when it is needed first.
#[derive(Default)]
pub(super) struct Files(OnceCell<TempDir>);

impl Files {
    /// A folder with many files, and a large file in the page cache. The guest has the same names (`guest-sdk/bench/src/operations/share.rs`).
    pub(super) const NAMES: &str = "names";
    pub(super) const LARGE: &str = "large";

    /// The folder.
    pub(super) fn path(&self) -> io::Result<&Path> {
        if self.0.get().is_none() {
            let _ = self.0.set(make()?);
        }
        Ok(self.0.get().expect("it was set").path())
    }
}

fn make() -> io::Result<TempDir> {
    let folder = TempDir::with_prefix("hv-bench-")?;
    let names = folder.path().join(Files::NAMES);
    std::fs::create_dir(&names)?;
    for number in 0..COUNT {
        std::fs::write(names.join(format!("{number:05}")), "x")?;
    }
    let mut large = File::create(folder.path().join(Files::LARGE))?;
    let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for _ in 0..LARGE / chunk.len() as u64 {
        large.write_all(&chunk)?;
    }
    // Or it would be written to the disk while something is measured.
    large.sync_data()?;
    Ok(folder)
}
