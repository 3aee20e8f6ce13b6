//! Which format a file has, by the bytes at its start and its end. Pure.
//!
//! A guest that writes a disk chooses these bytes, so they never decide alone what a file is taken for: a
//! [container] is refused as a raw disk, and it takes a name or an option of the host's to open it as what it is.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A format that hv reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The bytes of the file are those of the disk.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
}

impl Format {
    /// Its name on the command line and in images.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Not a format that hv has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("formats are raw and qcow2, not \"{}\"", hv_host::escape::escape(.0))]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "raw" => Ok(Format::Raw),
            "qcow2" => Ok(Format::Qcow2),
            other => Err(UnknownFormat(other.into())),
        }
    }
}

/// Why a file is opened as nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Its bytes are those of a qcow2 image, and neither an option nor its name says so.
    Unsaid,
    /// Its name is that of a qcow2 image, and its bytes are not.
    NotQcow2,
    /// A container of another format.
    Container(&'static str),
}

/// The format of a file: what was said, or else what its name says, unless its bytes say something else.
///
/// # Errors
///
/// How they disagree.
pub fn decide(path: &Path, said: Option<Format>, found: Option<&'static str>) -> Result<Format, Undecided> {
    let named = path.extension().is_some_and(|extension| extension == "qcow2");
    match (said, named, found) {
        (Some(format), ..) => Ok(format),
        (_, true, Some("qcow2")) => Ok(Format::Qcow2),
        (_, true, None) => Err(Undecided::NotQcow2),
        (_, false, None) => Ok(Format::Raw),
        (.., Some("qcow2")) => Err(Undecided::Unsaid),
        (.., Some(other)) => Err(Undecided::Container(other)),
    }
}

/// Bytes at the start of a disk that are looked at.
pub const HEAD: usize = 512;
/// Bytes at its end.
pub const TAIL: usize = 512;

/// The cookie of a VHD: at the end of all of them, at the start as well of those that grow.
const VHD: &[u8] = b"conectix";

/// Name, offset in the head, and the bytes there.
const HEADS: &[(&str, usize, &[u8])] = &[
    ("qcow", 0, b"QFI\xfb\0\0\0\x01"),
    ("qcow2", 0, b"QFI\xfb"),
    ("QED", 0, b"QED\0"),
    ("VMDK", 0, b"KDMV"),
    ("VMDK", 0, b"COWD"),
    ("VMDK", 0, b"# Disk DescriptorFile"),
    ("VMDK", 0, b"\xbe\xba\xfe\xca\0\0\0\0"),
    ("VHDX", 0, b"vhdxfile"),
    ("VHD", 0, VHD),
    ("VDI", 64, b"\x7f\x10\xda\xbe"),
    ("Parallels", 0, b"WithoutFreeSpace"),
    ("Parallels", 0, b"WithouFreSpacExt"),
    ("Bochs", 0, b"Bochs Virtual HD Image"),
];

/// The format of a container, by the first and last bytes of its file.
pub fn container(head: &[u8], tail: &[u8]) -> Option<&'static str> {
    let by_head =
        HEADS.iter().find(|(_, at, magic)| head.get(*at..).is_some_and(|from| from.starts_with(magic)));
    match by_head {
        Some((name, ..)) => Some(name),
        None => tail.starts_with(VHD).then_some("VHD"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_is_known_by_its_magic_in_its_place() {
        for (name, at, magic) in HEADS {
            let mut head = [0; HEAD];
            head[*at..][..magic.len()].copy_from_slice(magic);
            assert_eq!(container(&head, &[0; TAIL]), Some(*name));
            head.rotate_right(1);
            assert_eq!(container(&head, &[0; TAIL]), None, "{name} elsewhere");
        }
        let mut tail = [0; TAIL];
        tail[..VHD.len()].copy_from_slice(VHD);
        assert_eq!(container(&[0; HEAD], &tail), Some("VHD"), "of a fixed size");
    }

    #[test]
    fn what_a_raw_disk_holds_is_no_container() {
        for content in [&b"LUKS\xba\xbe\0\x02"[..], b"\xeb\x3c\x90mkfs.fat", b"QFI", b"", b"\x1f\x8b\x08"] {
            assert_eq!(container(content, &[0; TAIL]), None);
        }
    }
}
