//! Folders of the host that guests work on: what a guest's request comes to in system calls.
//!
//! ```text
//! command line ─ ShareSpec ─▶ Folder: opened before the jail ─▶ Share: handles ─ paths ─▶ the host's kernel
//! ```
//!
//! All paths are looked up by the kernel, by `openat2` from a descriptor with `RESOLVE_BENEATH` and `RESOLVE_NO_MAGICLINKS`: whatever names,
//! `..`, links and races there are, what is found lies beneath the folder. Every call here blocks for as long as the host's file system does, so
//! callers have threads for it. Nothing here knows guest memory: names come in as bytes, results go out as bytes, and the bytes of files
//! are moved by the caller, who gets the descriptor.
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc)]

mod attributes;
mod change;
mod directory;
mod errno;
mod folder;
mod handles;
mod lock;
mod path;
mod share;
mod spec;
mod watch;
mod xattr;

pub use errno::errno;
pub use folder::{Folder, FolderError};
pub use handles::Node;
pub use path::RelativePath;
pub use share::{Closing, Share};
pub use spec::{ShareSpec, SpecError, Tag};
pub use xattr::XattrName;
