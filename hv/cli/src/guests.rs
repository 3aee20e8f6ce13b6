//! Images by name: the guests of `guest-examples/`, built on demand.
//!
//! Building runs programs that the sources bring along. So guests are only built from the sources that hv itself was
//! built from, never from a folder that happens to have the right name.

use hv_host::escape::escape;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why there is no image of this name.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestError {
    #[error("{}: no such file; give the path of a built guest, or the bare name of one in guest-examples/", escape(.0))]
    NoFile(String),
    #[error(
        "{}: no such file; guests are built by name only inside the checkout that hv was built in: give the path of a built one",
        escape(.0)
    )]
    NoExamples(String),
    #[error("{}: no such file, and no such guest in guest-examples/ (there are: {known})", escape(name))]
    Unknown { name: String, known: String },
    #[error(
        "the bench guests are built only inside the checkout that hv was built in; name built ones with --images FOLDER"
    )]
    NoBenchGuests,
    #[error("cannot run cargo to build the guest: {0}; install Rust, or give the path of a built image")]
    NoCargo(std::io::Error),
    #[error(
        "the guest `{0}` is not built, and --check builds nothing: `hv serve` would build it first; add --build, or give the path of a built image"
    )]
    NotBuilt(String),
    #[error("building the guest `{0}` failed; the messages above say why")]
    Build(String),
}

/// The file of an image: the path itself, or the freshly built guest of that name.
pub(super) fn resolve(image: &str) -> Result<PathBuf, GuestError> {
    find(image, |workspace| build(workspace, "hv-guest-examples", image))
}

/// The same, but a guest is what was built before.
pub(super) fn resolve_built(image: &str) -> Result<PathBuf, GuestError> {
    find(image, |workspace| {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let built = target.join("guest").join(image);
        if built.is_file() { Ok(built) } else { Err(GuestError::NotBuilt(image.into())) }
    })
}

/// Whether this leads to a guest that is built, not to a file.
pub(super) fn is_built_by_name(image: &str) -> bool {
    is_name(image) && workspace().is_some_and(|workspace| known(&workspace).iter().any(|name| name == image))
}

fn find(
    image: &str,
    guest: impl FnOnce(&Path) -> Result<PathBuf, GuestError>,
) -> Result<PathBuf, GuestError> {
    let path = Path::new(image);
    if !is_name(image) {
        return if path.exists() { Ok(path.into()) } else { Err(GuestError::NoFile(image.into())) };
    }
    let Some(workspace) = workspace() else {
        return if path.is_file() { Ok(path.into()) } else { Err(GuestError::NoExamples(image.into())) };
    };
    let known = known(&workspace);
    if known.iter().any(|name| name == image) {
        return guest(&workspace);
    }
    if path.is_file() {
        return Ok(path.into());
    }
    Err(GuestError::Unknown { name: image.into(), known: known.join(", ") })
}

/// Whether this names a guest of `guest-examples/` rather than a file.
pub(super) fn is_name(image: &str) -> bool {
    !image.contains('/') && !image.contains('.')
}

/// The checkout that hv was built in, if the current folder or hv itself is inside it.
fn workspace() -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2)?.canonicalize().ok()?;
    let is_inside = |path: std::io::Result<PathBuf>| {
        path.and_then(|path| path.canonicalize()).is_ok_and(|path| path.starts_with(&checkout))
    };
    let found = checkout.join("guest-examples/Cargo.toml").is_file()
        && (is_inside(std::env::current_dir()) || is_inside(std::env::current_exe()));
    found.then_some(checkout)
}

/// Names of the guests in a workspace, sorted.
fn known(workspace: &Path) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(workspace.join("guest-examples/src/bin")) else { return Vec::new() };
    let mut names: Vec<_> = folder
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            (path.extension()? == "rs").then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    names
}

/// The freshly built guests of `hv bench`: the one that measures, and the one that ends at once.
pub(super) fn bench() -> Result<(PathBuf, PathBuf), GuestError> {
    let workspace = workspace().ok_or(GuestError::NoBenchGuests)?;
    let build = |name| build(&workspace, "hv-guest-bench", name);
    Ok((build("bench")?, build("bench-null")?))
}

fn build(workspace: &Path, package: &str, name: &str) -> Result<PathBuf, GuestError> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace.join("guest-sdk"))
        .args(["build", "--profile", "guest", "--package", package, "--bin", name])
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(GuestError::NoCargo)?;
    if !output.status.success() {
        return Err(GuestError::Build(name.into()));
    }
    // One JSON object a line; the one of the binary names the file.
    output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| GuestError::Build(name.into()))
}
