//! Containers of virtual disks, which must not be taken for raw disks: a guest that writes
//! "sector 0" of one destroys the disk that it contains.
//!
//! Pure: bytes in, a name out. Only formats in which a virtual machine's disk is wrapped are known
//! here. What a raw disk has as its own content (file systems, partition tables, LUKS, ISO 9660) is not.
#![forbid(unsafe_code)]

/// Bytes at the start of a disk that are looked at.
pub(super) const HEAD: usize = 512;
/// Bytes at its end.
pub(super) const TAIL: usize = 512;

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
pub(super) fn detect(head: &[u8], tail: &[u8]) -> Option<&'static str> {
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
            assert_eq!(detect(&head, &[0; TAIL]), Some(*name));
            head.rotate_right(1);
            assert_eq!(detect(&head, &[0; TAIL]), None, "{name} elsewhere");
        }
        let mut tail = [0; TAIL];
        tail[..VHD.len()].copy_from_slice(VHD);
        assert_eq!(detect(&[0; HEAD], &tail), Some("VHD"), "of a fixed size");
    }

    #[test]
    fn what_a_raw_disk_holds_is_no_container() {
        for content in [&b"LUKS\xba\xbe\0\x02"[..], b"\xeb\x3c\x90mkfs.fat", b"QFI", b"", b"\x1f\x8b\x08"] {
            assert_eq!(detect(content, &[0; TAIL]), None);
        }
    }
}
