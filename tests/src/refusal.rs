//! What a refusal looks like: exit code 2, one line, nothing printed.

use crate::{Finished, Running, guest};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a command to its end, with no input.
pub fn finished(command: &mut Command) -> Finished {
    Running::new(command.stdin(Stdio::null())).finish()
}

/// Expects that a command is refused in one line with these parts.
#[track_caller]
pub fn refused(command: &mut Command, parts: &[&str]) -> Finished {
    let end = finished(command).expect(2);
    assert_eq!(end.text(), "", "{command:?} printed something");
    assert!(end.err.starts_with("hv: error: "), "{}", end.err);
    assert!(end.err.ends_with('\n') && end.err.lines().count() == 1, "more than a line:\n{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part:?} in: {}", end.err);
    }
    end
}

/// Expects that the command line itself is refused, in the way that clap does it.
#[track_caller]
pub fn misused(arguments: &[&str], parts: &[&str]) {
    let end = finished(crate::command().arg("run").args(arguments)).expect(2);
    assert_eq!(end.text(), "", "{arguments:?} printed something");
    assert!(end.err.starts_with("error: "), "{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part:?} in: {}", end.err);
    }
}

/// `hv run IMAGE …`, not yet started.
pub fn hv_run(image: &Path, options: &[&str]) -> Command {
    let mut command = crate::command();
    command.arg("run").arg(image).args(options);
    command
}

/// `hv run hello …`, not yet started.
pub fn hello(options: &[&str]) -> Command {
    hv_run(&guest("hello"), options)
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("folders for temporary files have plain names")
}
