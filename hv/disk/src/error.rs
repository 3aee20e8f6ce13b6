//! Why an image cannot be opened.
#![forbid(unsafe_code)]

use crate::lock::LockError;
use crate::qcow2::HeaderError;
use hv_host::escape::escape;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be opened. Each names the file, which may be one that another file names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Its bytes are those of a qcow2 image, and nothing says that it is one.
    #[error(
        "{}: its bytes are those of a qcow2 image, or a guest has written them to a raw disk; say which with --format",
        escape(path)
    )]
    Unsaid {
        /// The file.
        path: PathBuf,
    },
    /// Its name is that of a qcow2 image.
    #[error("{}: it is named as a qcow2 image, and is none; --format raw if it is a raw disk", escape(path))]
    NotQcow2 {
        /// The file.
        path: PathBuf,
    },
    /// Another format.
    #[error(
        "{}: a {format} image, and hv has raw and qcow2; convert it with `qemu-img convert -O qcow2 FILE NEW.qcow2`, or --format raw if these bytes are the disk's own",
        escape(path)
    )]
    Container {
        /// The file.
        path: PathBuf,
        /// The name of its format.
        format: &'static str,
    },
    /// It cannot be opened or read.
    #[error("{}: {source}", escape(path))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// Its header is wrong, or asks for what there is not.
    #[error("{}: {source}", escape(path))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// Its tables are wrong.
    #[error("{}: {what}; `hv disk check` says more, \",ro\" reads what can be read", escape(path))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Its refcounts are not up to date.
    #[error(
        "{}: it was not closed, and its refcounts are not up to date (lazy refcounts); `hv disk check --repair all` makes them right, \",ro\" reads it",
        escape(path)
    )]
    Dirty {
        /// The file.
        path: PathBuf,
    },
    /// A file that it names is in no folder that may be used.
    #[error(
        "{}: it names \"{}\", which is neither in its folder nor in one that is named by \",base=FOLDER\"",
        escape(path),
        escape(name)
    )]
    Outside {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: PathBuf,
    },
    /// A name that is that of no file.
    #[error(
        "{}: it names \"{}\", which is no file; hv has backing and data files on this host only",
        escape(path),
        escape(name)
    )]
    NoFile {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: String,
    },
    /// The format of the backing file is not known.
    #[error(
        "{}: it does not say which format \"{}\" has, and hv does not guess it from bytes that a guest may have written; say it with `hv disk rebase --unsafe --backing FILE --backing-format raw|qcow2 IMAGE`",
        escape(path),
        escape(name)
    )]
    NoBackingFormat {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: PathBuf,
    },
    /// The backing file has a format that hv does not read.
    #[error(
        "{}: its backing file has the format \"{}\", and hv reads raw and qcow2",
        escape(path),
        escape(format)
    )]
    BackingFormat {
        /// The file.
        path: PathBuf,
        /// The name of the format in it.
        format: String,
    },
    /// Data in another file, and no name of it.
    #[error("{}: its data is in another file, which it does not name", escape(path))]
    NoDataFile {
        /// The file.
        path: PathBuf,
    },
    /// A chain that leads back to itself.
    #[error("{}: the chain of backing files has it twice", escape(path))]
    Loop {
        /// The file.
        path: PathBuf,
    },
    /// Too many backing files.
    #[error(
        "{}: more than {} backing files behind each other; shorten the chain with `hv disk commit` or `hv disk convert`",
        escape(path),
        crate::chain::MAX_DEPTH
    )]
    Depth {
        /// The file that is one too many.
        path: PathBuf,
    },
    /// Another one has it.
    #[error("{}: {source}", escape(path))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who, as far as is known.
        source: LockError,
    },
}
