//! Why something cannot be done with a file.
#![forbid(unsafe_code)]

use hv_abi::Errno;

/// Why something cannot be done with a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file or folder.
    NotFound,
    /// It is a folder, and a file was asked for.
    IsAFolder,
    /// It is a file, and a folder was asked for.
    NotAFolder,
    /// There is something with this name already.
    Exists,
    /// The folder is not empty.
    NotEmpty,
    /// The disk, the share or the file system cannot be changed, or the file was not opened to be changed.
    ReadOnly,
    /// There is no room for it.
    NoSpace,
    /// The file would be longer than its file system allows.
    TooLarge,
    /// The two names are in different file systems.
    CrossesFileSystems,
    /// It is in use: something is mounted there, or another one has locked it.
    Busy,
    /// The options contradict each other, the name is none that the file system takes, or a folder was to become a part of itself.
    Invalid,
    /// The disk contains nothing that is known here.
    Unsupported,
    /// The disk contains this: a file system other than FAT and ext2 to ext4, or a partition table.
    Foreign(&'static str),
    /// The file system, or the file, uses this feature, which is not supported here. The name is that of `mke2fs -O`.
    Feature(&'static str),
    /// The metadata of the file system is invalid.
    Corrupt,
    /// The disk failed.
    Disk(Errno),
    /// The host says this of a file in a share.
    Host(Errno),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Error::NotFound => "no such file or folder",
            Error::IsAFolder => "is a folder",
            Error::NotAFolder => "is not a folder",
            Error::Exists => "exists already",
            Error::NotEmpty => "the folder is not empty",
            Error::ReadOnly => "cannot be changed: it is read-only, or was opened to be read",
            Error::NoSpace => "no space left",
            Error::TooLarge => "longer than the file system allows",
            Error::CrossesFileSystems => "the two names are in different file systems",
            Error::Busy => "in use",
            Error::Invalid => "not possible with these options or names",
            Error::Unsupported => "no file system that is known here (FAT, ext2, ext3, ext4)",
            Error::Corrupt => "the file system is damaged",
            Error::Foreign(what) => {
                return write!(
                    f,
                    "holds {what}, which is not read here (known are FAT, ext2, ext3 and ext4, which fill the disk)"
                );
            }
            Error::Feature(name) => return write!(f, "the feature {name} of ext4 is not read here"),
            Error::Disk(errno) => return write!(f, "disk: {errno}"),
            Error::Host(errno) => return write!(f, "host: {errno}"),
        })
    }
}

impl core::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Disk(errno)
    }
}

impl embedded_io::Error for Error {
    fn kind(&self) -> embedded_io::ErrorKind {
        use embedded_io::ErrorKind;
        match self {
            Error::NotFound => ErrorKind::NotFound,
            Error::Exists => ErrorKind::AlreadyExists,
            Error::ReadOnly => ErrorKind::PermissionDenied,
            Error::NoSpace => ErrorKind::OutOfMemory,
            Error::IsAFolder | Error::NotAFolder | Error::Invalid => ErrorKind::InvalidInput,
            Error::Unsupported | Error::Foreign(_) | Error::Feature(_) => ErrorKind::Unsupported,
            Error::Corrupt => ErrorKind::InvalidData,
            _ => ErrorKind::Other,
        }
    }
}
