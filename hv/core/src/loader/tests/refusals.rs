//! Each violation by name.

use super::super::*;
use super::builder::{Builder, DYNAMIC, NOTE, R, RELRO, RW, STACK, X, header};
use hv_abi::{ABI_VERSION, AbiVersion};
use object::elf;

/// The valid image with one change.
fn spoilt(spoil: impl FnOnce(&mut Builder)) -> ImageError {
    let mut builder = Builder::valid();
    spoil(&mut builder);
    let error = builder.refused();
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(": "), "one line with a remedy: {text}");
    error
}

/// The valid image with other bytes at a place in the file.
fn patched(at: usize, part: &[u8]) -> ImageError {
    let mut bytes = Builder::valid().build();
    bytes[at..at + part.len()].copy_from_slice(part);
    Image::parse(bytes).unwrap_err()
}

fn kind_of(error: ImageError) -> String {
    match error {
        ImageError::RelocationKind { kind, .. } => kind,
        other => panic!("{other}"),
    }
}

fn truncated(error: ImageError) -> &'static str {
    match error {
        ImageError::Truncated { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn not_elf() {
    let error = Image::parse(b"#!/bin/sh\n".to_vec()).unwrap_err();
    assert_eq!(error, ImageError::NotElf { start: b"#!/b".to_vec() });
    assert_eq!(
        error.to_string(),
        "it is not an ELF file (it begins with [23, 21, 2f, 62]): give a guest program"
    );
    assert_eq!(Image::parse(Vec::new()).unwrap_err(), ImageError::NotElf { start: vec![] });
}

#[test]
fn not_64_bit() {
    assert_eq!(patched(4, &[1]), ImageError::NotClass64 { class: 1 });
}

#[test]
fn big_endian() {
    assert_eq!(patched(5, &[2]), ImageError::NotLittleEndian { encoding: 2 });
}

#[test]
fn other_machine() {
    let error = spoilt(|b| b.machine = elf::EM_AARCH64.0);
    assert_eq!(error, ImageError::Machine { machine: 183, name: "64-bit ARM" });
    assert!(spoilt(|b| b.machine = 0x1234).to_string().contains("an unknown processor (ELF machine 4660)"));
}

#[test]
fn fixed_address() {
    let error = spoilt(|b| b.file_type = elf::ET_EXEC.0);
    assert!(matches!(error, ImageError::NotPie { file_type: 2, .. }));
    assert!(error.to_string().ends_with("link with -static-pie"));
}

#[test]
fn dynamically_linked() {
    let interpreter = header(elf::PT_INTERP, 4, 0x500, 8, 8, 1);
    assert_eq!(spoilt(|b| b.headers.push(interpreter)), ImageError::Dynamic { what: "PT_INTERP" });
    let needed = (elf::DT_NEEDED.0, 1);
    assert_eq!(spoilt(|b| b.dynamic.push(needed)), ImageError::Dynamic { what: "DT_NEEDED" });
}

#[test]
fn truncated_anywhere() {
    let whole = Builder::valid().build();
    for len in 0..whole.len() {
        let error = Image::parse(whole[..len].to_vec()).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. } | ImageError::NotElf { .. }), "{len}: {error}");
    }
    assert_eq!(truncated(Image::parse(whole[..10].to_vec()).unwrap_err()), "the ELF header");
    assert_eq!(truncated(Image::parse(whole[..100].to_vec()).unwrap_err()), "the program header table");
    assert_eq!(truncated(Image::parse(whole[..0x510].to_vec()).unwrap_err()), "a note segment");
    assert_eq!(truncated(Image::parse(whole[..0x1100].to_vec()).unwrap_err()), "a segment");
    assert_eq!(truncated(spoilt(|b| b.headers[NOTE].offset = u64::MAX)), "a note segment");
    assert_eq!(truncated(spoilt(|b| b.headers[DYNAMIC].offset = 0x3000)), "PT_DYNAMIC");
}

#[test]
fn odd_program_headers() {
    assert_eq!(patched(54, &[32, 0]), ImageError::HeaderSize { size: 32 });
    assert_eq!(patched(56, &[0, 0]), ImageError::NoSegments);
    let error = patched(56, &[0xff, 0xff]);
    assert_eq!(error, ImageError::TooMany { what: "program headers", count: 65535, limit: 64 });
}

#[test]
fn no_segments() {
    assert_eq!(spoilt(|b| drop(b.headers.drain(..=RW))), ImageError::NoSegments);
}

#[test]
fn too_many_segments() {
    let error = spoilt(|b| b.headers.extend(vec![b.headers[RW].clone(); 14]));
    assert_eq!(error, ImageError::TooMany { what: "loadable segments", count: 17, limit: 16 });
}

#[test]
fn duplicate_headers() {
    for index in [DYNAMIC, RELRO, STACK] {
        let error = spoilt(|b| b.headers.push(b.headers[index].clone()));
        assert!(matches!(error, ImageError::Duplicate { .. }), "{error}");
    }
    let error = spoilt(|b| b.headers.push(b.headers[NOTE].clone()));
    assert_eq!(error, ImageError::Duplicate { what: "the hv note" });
}

#[test]
fn no_note() {
    assert_eq!(spoilt(|b| b.headers.truncate(NOTE)), ImageError::NoNote);
    assert_eq!(spoilt(|b| b.note[12] = b'x'), ImageError::NoNote, "another owner");
    assert_eq!(spoilt(|b| b.note[8] = 2), ImageError::NoNote, "another type");
    assert!(ImageError::NoNote.to_string().contains("depend on the SDK"));
}

#[test]
fn malformed_note() {
    let malformed = |error| matches!(error, ImageError::MalformedNote { offset: 0x500, .. });
    assert!(malformed(spoilt(|b| b.headers[NOTE].file = 20)));
    assert!(malformed(spoilt(|b| b.headers[NOTE].file = 5)));
    assert!(malformed(spoilt(|b| b.headers[NOTE].align = 16)));
    assert!(malformed(spoilt(|b| b.note[0..4].fill(0xff))), "the size of the name");
    assert!(malformed(spoilt(|b| b.note[4..8].fill(0xff))), "the size of the descriptor");
}

#[test]
fn short_note() {
    let error = spoilt(|b| {
        b.note[4] = 8;
        b.headers[NOTE].file = 24;
    });
    assert_eq!(error, ImageError::NoteSize { size: 8, expected: 16 });
}

#[test]
fn other_abi_version() {
    let at = |major: u16, minor: u16| {
        spoilt(|b| {
            b.note[16..18].copy_from_slice(&major.to_le_bytes());
            b.note[18..20].copy_from_slice(&minor.to_le_bytes());
        })
    };
    let AbiVersion { major, minor } = ABI_VERSION;
    for (major, minor) in [(major + 1, 0), (major - 1, 0), (major, minor + 1)] {
        let error = at(major, minor);
        assert_eq!(error, ImageError::Version { guest: AbiVersion { major, minor }, host: ABI_VERSION });
    }
    assert_eq!(
        at(major, minor + 1).to_string(),
        format!(
            "it needs version {major}.{} of the guest ABI and this host has {ABI_VERSION}: \
             update hv, or build the guest with an older hv-guest",
            minor + 1
        )
    );
    assert!(at(major - 1, 9).to_string().ends_with("build the guest with a newer hv-guest"));
}

#[test]
fn writable_and_executable() {
    assert_eq!(spoilt(|b| b.headers[X].flags = 7), ImageError::WritableCode { address: 0x1000 });
}

#[test]
fn executable_stack() {
    assert_eq!(spoilt(|b| b.headers[STACK].flags = 7), ImageError::ExecutableStack);
}

#[test]
fn thread_local_storage() {
    let tls = header(elf::PT_TLS, 4, 0x2000, 8, 8, 8);
    assert_eq!(spoilt(|b| b.headers.push(tls)), ImageError::ThreadLocal { address: 0x2000 });
}

#[test]
fn more_in_the_file_than_in_memory() {
    let error = spoilt(|b| b.headers[RW].memory = 0x1000);
    assert_eq!(error, ImageError::FileSize { address: 0x2000, file_size: 0x1048, memory_size: 0x1000 });
}

#[test]
fn outside_the_image() {
    let outside = |error| matches!(error, ImageError::OutsideImage { limit: MAX_IMAGE_SIZE, .. });
    assert!(outside(spoilt(|b| b.headers[RW].memory = u64::MAX)), "overflow");
    assert!(outside(spoilt(|b| b.headers[RW].memory = MAX_IMAGE_SIZE)));
    assert!(outside(spoilt(|b| b.headers[RW].address = 0xffff_8000_0000_0000)));
}

#[test]
fn overlapping_or_out_of_order() {
    let error = spoilt(|b| b.headers[X].memory = 0x1001);
    assert_eq!(error, ImageError::Overlap { address: 0x2000, end: 0x2001 });
    assert!(matches!(spoilt(|b| b.headers.swap(R, RW)), ImageError::Overlap { address: 0x1000, .. }));
}

#[test]
fn page_of_two_permissions() {
    let error = spoilt(|b| {
        b.headers[RW].align = 8;
        b.headers[RW].address = 0x1800;
    });
    assert_eq!(error, ImageError::SharedPage { address: 0x1800 });
}

#[test]
fn odd_alignment() {
    for align in [24, MAX_ALIGNMENT * 2, u64::MAX] {
        let error = spoilt(|b| b.headers[RW].align = align);
        assert_eq!(error, ImageError::Alignment { address: 0x2000, align, limit: MAX_ALIGNMENT });
    }
}

#[test]
fn address_and_offset_disagree() {
    let error = spoilt(|b| b.headers[RW].address = 0x2008);
    assert_eq!(error, ImageError::Congruence { address: 0x2008, offset: 0x2000, align: 0x1000 });
}

#[test]
fn entry_that_is_no_code() {
    for entry in [0, 0xfff, 0x1800, 0x2000, u64::MAX] {
        assert_eq!(spoilt(|b| b.entry = entry), ImageError::Entry { entry });
    }
}

#[test]
fn relro_outside() {
    for (address, size) in [(0x2000, 0x4001), (0x17f0, 0x900), (0x8000, 8), (u64::MAX, 8)] {
        let error = spoilt(|b| (b.headers[RELRO].address, b.headers[RELRO].memory) = (address, size));
        assert_eq!(error, ImageError::Relro { address, size }, "{address:#x}");
    }
}

#[test]
fn relro_that_would_protect_the_next_segment() {
    let error = spoilt(|b| {
        let mut next = b.headers[RW].clone();
        b.headers[RW].memory = 0x1800;
        (next.offset, next.address, next.file, next.memory, next.align) = (0, 0x3900, 0, 0x100, 1);
        b.headers.push(next);
        b.headers[RELRO].memory = 0x2000;
    });
    assert_eq!(error, ImageError::Relro { address: 0x2000, size: 0x2000 });
}

#[test]
fn odd_dynamic_entries() {
    for (tag, value) in [
        (elf::DT_RELAENT, 16),
        (elf::DT_RELRENT, 16),
        (elf::DT_PLTREL, elf::DT_REL.0 as u64),
        (elf::DT_REL, 0x600),
        (elf::DT_JMPREL, 0x600),
        (elf::DT_PLTRELSZ, 24),
    ] {
        let mut builder = Builder::valid();
        builder.dynamic.push((tag.0, value));
        match builder.parse() {
            // An address without a size is a table without entries.
            Ok(_) => assert_eq!(tag, elf::DT_JMPREL),
            Err(error) => assert!(matches!(error, ImageError::DynamicEntry { .. }), "{error}"),
        }
    }
}

#[test]
fn relocation_table_outside_the_file() {
    for (address, size) in [(0x6000, 24), (0x780, 0x96), (u64::MAX, 24), (0x4000, 24), (0x600, 23)] {
        let error = spoilt(|b| {
            b.rela.clear();
            b.dynamic = vec![(elf::DT_RELA.0, address), (elf::DT_RELASZ.0, size)];
        });
        assert!(matches!(error, ImageError::DynamicEntry { .. }), "{error}");
    }
}

#[test]
fn other_relocations() {
    let kind = |kind| kind_of(spoilt(|b| b.rela[0][1] = kind));
    assert_eq!(kind(37), "37 (R_X86_64_IRELATIVE)");
    assert_eq!(kind(1 | 5 << 32), "1 (R_X86_64_64)");
    assert_eq!(kind(18), "18 (R_X86_64_TPOFF64)");
    assert_eq!(kind(99), "99 (unknown)");
}

#[test]
fn other_relocations_of_the_procedure_table() {
    let error = spoilt(|b| {
        b.rela.push([0x2010, 7, 0]);
        b.dynamic = vec![(elf::DT_JMPREL.0, 0x600 + 72), (elf::DT_PLTRELSZ.0, 24)];
        b.dynamic.extend([(elf::DT_RELA.0, 0x600), (elf::DT_RELASZ.0, 72), (elf::DT_NULL.0, 0)]);
    });
    assert_eq!(kind_of(error), "7 (R_X86_64_JUMP_SLOT)");
}

#[test]
fn relocation_of_no_segment() {
    for target in [0x6000, 0x7000, 0x1_0000_2000, u64::MAX - 7] {
        assert_eq!(spoilt(|b| b.rela[1][0] = target), ImageError::RelocationTarget { target });
    }
}

#[test]
fn relocation_across_the_end_of_a_segment() {
    let error = spoilt(|b| {
        b.headers[RW].memory = 0x3ffc;
        b.rela[2] = [0x5ff8, 8, 0];
    });
    assert_eq!(error, ImageError::RelocationTarget { target: 0x5ff8 });
}

#[test]
fn unaligned_relocation() {
    assert_eq!(spoilt(|b| b.rela[0][0] = 0x2001), ImageError::RelocationAlignment { target: 0x2001 });
}

#[test]
fn relocation_of_code() {
    assert_eq!(spoilt(|b| b.rela[0][0] = 0x1008), ImageError::TextRelocation { target: 0x1008 });
    assert_eq!(spoilt(|b| b.rela[0][0] = 0x10), ImageError::TextRelocation { target: 0x10 });
}

#[test]
fn relocation_to_outside() {
    for addend in [0x6001, u64::MAX, 1 << 32] {
        let error = spoilt(|b| b.rela[0][2] = addend);
        assert_eq!(error, ImageError::RelocationAddend { target: 0x2000, addend, size: 0x6000 });
    }
}

#[test]
fn too_many_relocations() {
    // An address and a bitmap of the 63 words behind it, again and again.
    let count = MAX_RELOCATIONS / 64 + 1;
    let mut builder = Builder::valid();
    builder.rela.clear();
    builder.patches = (0x3000..0x3048).step_by(8).map(|at| (at, 0)).collect();
    let size = count as u64 * 16;
    builder.headers.push(header(elf::PT_LOAD, elf::PF_R.0, 0x1_0000, size, size, 0x1000));
    builder.dynamic = vec![(elf::DT_RELR.0, 0x1_0000), (elf::DT_RELRSZ.0, size)];
    let mut bytes = builder.build();
    bytes.resize(0x1_0000, 0);
    for word in [0x3000, u64::MAX].repeat(count) {
        bytes.extend(word.to_le_bytes());
    }
    let (limit, what) = (MAX_RELOCATIONS, "relocations");
    assert_eq!(Image::parse(bytes).unwrap_err(), ImageError::TooMany { what, count: limit + 1, limit });
}

#[test]
fn packed_relocations_are_validated_too() {
    let packed = |relr: Vec<u64>| {
        spoilt(|b| {
            b.rela.clear();
            b.relr = relr;
            b.patches = vec![(0x2000, 0)];
        })
    };
    assert_eq!(packed(vec![0x2002]), ImageError::RelocationAlignment { target: 0x2002 });
    assert_eq!(packed(vec![0x1000]), ImageError::TextRelocation { target: 0x1000 });
    assert!(matches!(packed(vec![1 << 63]), ImageError::RelocationTarget { .. }));
    assert!(matches!(packed(vec![0x2008]), ImageError::RelocationAddend { target: 0x2008, .. }));
    assert_eq!(packed(vec![3]), ImageError::TextRelocation { target: 0 }, "a bitmap without an address");
}
