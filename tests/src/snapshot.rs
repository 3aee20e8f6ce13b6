//! Guests that are saved and go on, by the commands.

use crate::{Finished, Platform, Running, guest};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `hv snapshot GUEST -o FOLDER …`, not yet started.
pub fn snapshot(
    platform: Platform,
    name: &str,
    folder: &Path,
    options: &[&str],
    arguments: &[&str],
) -> Command {
    let mut command = platform.command();
    command.arg("snapshot").arg(guest(name)).arg("-o").arg(folder).args(options);
    command.arg("--").args(arguments).stdin(Stdio::null());
    command
}

/// Saves a guest.
#[track_caller]
pub fn save(platform: Platform, name: &str, folder: &Path, options: &[&str], arguments: &[&str]) -> Finished {
    Running::new(&mut snapshot(platform, name, folder, options, arguments)).finish().expect(0)
}

/// `hv restore FOLDER …`, not yet started.
pub fn restore(platform: Platform, folder: &Path, options: &[&str]) -> Command {
    let mut command = platform.command();
    command.arg("restore").arg(folder).args(options).stdin(Stdio::null());
    command
}

/// How a guest ends that goes on.
pub fn restored(platform: Platform, folder: &Path, options: &[&str]) -> Finished {
    Running::new(&mut restore(platform, folder, options)).finish()
}

/// A folder, and a name in it for a snapshot.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snap");
    (folder, path)
}
