//! Why a disk cannot be used.
#![forbid(unsafe_code)]

use crate::device::block::folder::FolderError;
use hv_disk::ImageError;
use hv_host::escape::escape;
use std::io;
use std::path::{Path, PathBuf};

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Nothing is there.
    #[error(
        "disk {}: there is no such file{}; create it first, for example with `truncate -s 64M FILE`",
        escape(path),
        hint(path)
    )]
    Missing {
        /// The disk's file.
        path: PathBuf,
    },
    /// It cannot be looked at or opened for reading.
    #[error("disk {}: cannot open it for reading: {source}; check its permissions", escape(path))]
    Unreadable {
        /// The disk's file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// It can be read but not written.
    #[error("disk {}: not writable: {source}; append \",ro\" to use it read-only", escape(path))]
    NotWritable {
        /// The disk's file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// A block device that the host has mounted, or that another program claimed.
    #[error("disk {}: the device is mounted or in use; unmount it, or append \",ro\"", escape(path))]
    DeviceInUse {
        /// The disk's file.
        path: PathBuf,
    },
    /// A socket, a pipe, a terminal …
    #[error("disk {}: neither a file, nor a block device, nor a folder", escape(path))]
    NotADisk {
        /// The disk's file.
        path: PathBuf,
    },
    /// A container of a virtual disk, not the disk itself.
    #[error(
        "disk {}: a {format} image, and hv has raw and qcow2 disks; convert it with `qemu-img convert -O qcow2 FILE NEW.qcow2`, \
             or append \",format=raw\" if these bytes are the disk's own",
        escape(path)
    )]
    Container {
        /// The disk's file.
        path: PathBuf,
        /// The name of its format.
        format: &'static str,
    },
    /// It begins as a qcow2 image does, and neither its name nor an option says that it is one.
    #[error(
        "disk {}: its bytes are those of a qcow2 image, or a guest has written them to a raw disk; append \",format=qcow2\" or \",format=raw\"",
        escape(path)
    )]
    Unsaid {
        /// The disk's file.
        path: PathBuf,
    },
    /// Its name ends in `.qcow2`, and it is none.
    #[error(
        "disk {}: it is named as a qcow2 image, and is none; append \",format=raw\" if it is a raw disk",
        escape(path)
    )]
    NotQcow2 {
        /// The disk's file.
        path: PathBuf,
    },
    /// It is an image, or names one, that cannot be opened.
    #[error("disk {}{source}", of(path, source))]
    Image {
        /// The disk's file.
        path: PathBuf,
        /// What is wrong, and with which file.
        source: ImageError,
    },
    /// An image of a format is read through the page cache.
    #[error(
        "disk {}: a qcow2 image is read and written through the page cache; leave out \",direct\"",
        escape(path)
    )]
    DirectFormat {
        /// The disk's file.
        path: PathBuf,
    },
    /// No bytes in it.
    #[error(
        "disk {}: the file is empty; give it a size, for example with `truncate -s 64M FILE`",
        escape(path)
    )]
    Empty {
        /// The disk's file.
        path: PathBuf,
    },
    /// Its size is not a multiple of the sector size.
    #[error(
        "disk {}: its {size} bytes are not whole sectors of {sector_size}; round it up with `truncate -s %{sector_size} FILE`",
        escape(path)
    )]
    Uneven {
        /// The disk's file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// Another process, or another disk of this one, has it.
    #[error(
        "disk {}: in use by another guest; a writable disk belongs to one guest, \",ro\" or \",overlay\" on all of them shares it",
        escape(path)
    )]
    Locked {
        /// The disk's file.
        path: PathBuf,
    },
    /// The file system does not do `O_DIRECT`.
    #[error("disk {}: its file system cannot go past the page cache; leave out \",direct\"", escape(path))]
    NoDirect {
        /// The disk's file.
        path: PathBuf,
    },
    /// `O_DIRECT` moves larger blocks than the disk's sectors.
    #[error(
        "disk {}: past the page cache it moves blocks of {needed} bytes; append \",sector=4096\" or leave out \",direct\"",
        escape(path)
    )]
    DirectSector {
        /// The disk's file.
        path: PathBuf,
        /// Bytes that offsets have to be multiples of.
        needed: u32,
    },
    /// A folder is served from memory that the page cache holds anyway.
    #[error("disk {}: a folder becomes an image in the page cache; leave out \",direct\"", escape(path))]
    DirectFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that does not fit into a FAT disk.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Which disk it is, unless its own file is what the error names.
fn of(path: &Path, source: &ImageError) -> String {
    match source.to_string().starts_with(&escape(path).to_string()) {
        true => String::new(),
        false => format!("{}: ", escape(path)),
    }
}

/// A misspelt option ends up in the file name: say which ones there are.
fn hint(path: &Path) -> &'static str {
    if path.as_os_str().as_encoded_bytes().contains(&b',') {
        " (options are \",ro\", \",direct\", \",overlay\", \",sector=512|4096\", \",format=raw|qcow2\" and \",base=FOLDER\")"
    } else {
        ""
    }
}
