//! Images built in memory, one for each violation.

mod builder;
mod hostile;
mod refusals;

use super::*;
use builder::{Builder, NOTE, R, RELRO, RW, X};
use hv_abi::PAGE_SIZE;
use object::elf;

fn segment(pages: Range<u64>, access: Access) -> Segment {
    Segment { range: pages.start * PAGE_SIZE..pages.end * PAGE_SIZE, access }
}

/// What a guest's memory holds after the image was loaded at `base`.
fn memory(image: &Image, base: u64) -> Vec<u8> {
    let mut memory = vec![0; image.size() as usize];
    image.load(base, &mut |offset, bytes| {
        memory[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    });
    memory
}

fn word(memory: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(memory[at..at + 8].try_into().unwrap())
}

#[test]
fn a_valid_image_is_laid_out() {
    let image = Builder::valid().parse().unwrap();
    assert_eq!(image.note().stack_size, 0x4000);
    assert_eq!((image.size(), image.entry(), image.alignment()), (0x6000, 0x1010, PAGE_SIZE));
    assert_eq!(
        image.segments(),
        [
            segment(0..1, Access::READ),
            segment(1..2, Access::READ | Access::EXECUTE),
            segment(2..3, Access::READ),
            segment(3..6, Access::READ | Access::WRITE),
        ]
    );
    assert_eq!(image.relocations(), 3);
}

#[test]
fn words_are_relocated_in_the_file_and_behind_it() {
    let builder = Builder::valid();
    let bytes = builder.build();
    let image = Image::parse(bytes.clone()).unwrap();
    let memory = memory(&image, 0x7000_0000);
    assert!(memory[..0x800] == bytes[..0x800]);
    assert!(memory[0x1000..0x1800] == bytes[0x1000..0x1800]);
    assert_eq!(word(&memory, 0x2000), 0x7000_1010);
    assert_eq!(word(&memory, 0x3008), 0x7000_3000);
    assert_eq!(word(&memory, 0x4000), 0x7000_6000, "in the bss, to the end of the image");
    assert_eq!(word(&memory, 0x3010), 0xd7d7_d7d7_d7d7_d7d7, "the file's bytes around it");
    assert!(memory[0x3048..0x4000].iter().chain(&memory[0x4008..]).all(|byte| *byte == 0));
}

#[test]
fn packed_relocations_take_the_addend_from_the_word() {
    let mut builder = Builder::valid();
    builder.rela.clear();
    // The word at 0x2000, then by bitmap the third and the fifth behind it.
    builder.relr = vec![0x2000, 1 | 1 << 3 | 1 << 5];
    builder.patches = vec![(0x2000, 0x1010), (0x2018, 0x3000), (0x2028, 0)];
    let image = builder.parse().unwrap();
    assert_eq!(image.relocations(), 3);
    let memory = memory(&image, 0x10_0000);
    assert_eq!(word(&memory, 0x2000), 0x10_1010);
    assert_eq!(word(&memory, 0x2018), 0x10_3000);
    assert_eq!(word(&memory, 0x2028), 0x10_0000);
    assert_eq!(word(&memory, 0x2020), 0xd7d7_d7d7_d7d7_d7d7);
}

#[test]
fn unsorted_relocations_and_those_for_nothing_are_fine() {
    let mut builder = Builder::valid();
    builder.rela.reverse();
    builder.rela.push([0, 0, 0]);
    let image = builder.parse().unwrap();
    assert_eq!(image.relocations(), 3);
    let sorted = memory(&Builder::valid().parse().unwrap(), 0x5000_0000);
    let memory = memory(&image, 0x5000_0000);
    assert_eq!(word(&memory, 0x2000), word(&sorted, 0x2000));
    assert!(memory[0x3000..] == sorted[0x3000..]);
}

#[test]
fn an_image_without_relocations_needs_no_dynamic_section() {
    let mut builder = Builder::valid();
    builder.rela.clear();
    builder.headers.retain(|header| header.kind != elf::PT_DYNAMIC.0);
    assert_eq!(builder.parse().unwrap().relocations(), 0);
}

#[test]
fn only_whole_pages_become_read_only() {
    let mut builder = Builder::valid();
    builder.headers[RELRO].memory = 0x1fff;
    assert_eq!(builder.parse().unwrap().segments()[2], segment(2..3, Access::READ));
    // From the middle of a page, what is before it on that page stays writable.
    builder.headers[RELRO].address = 0x2008;
    builder.headers[RELRO].memory = 0x2000;
    assert_eq!(
        builder.parse().unwrap().segments()[2..],
        [
            segment(2..3, Access::READ | Access::WRITE),
            segment(3..4, Access::READ),
            segment(4..6, Access::READ | Access::WRITE)
        ]
    );
}

#[test]
fn segments_of_the_same_permissions_may_share_a_page() {
    let mut builder = Builder::valid();
    let mut second = builder.headers[RW].clone();
    builder.headers[RW].memory = 0x1800;
    (second.address, second.offset, second.file, second.memory) = (0x3900, 0x2900, 0, 0x2700);
    second.align = 8;
    builder.headers.push(second);
    assert_eq!(builder.parse().unwrap().segments()[3], segment(3..6, Access::READ | Access::WRITE));
}

#[test]
fn memory_that_the_guest_may_not_touch_is_no_segment() {
    let mut builder = Builder::valid();
    builder.headers[R].flags = 0;
    builder.rela.clear();
    builder.headers.retain(|header| header.kind != elf::PT_DYNAMIC.0);
    let image = builder.parse().unwrap();
    assert_eq!(image.segments()[0], segment(1..2, Access::READ | Access::EXECUTE));
}

#[test]
fn a_greater_alignment_is_passed_on() {
    let mut builder = Builder::valid();
    builder.headers[X].align = 1 << 12;
    builder.headers[R].align = 1 << 16;
    assert_eq!(builder.parse().unwrap().alignment(), 1 << 16);
}

#[test]
fn a_file_is_read_as_far_as_needed_and_whole_for_its_symbols() {
    let mut bytes = Builder::valid().build();
    bytes.resize(FIRST_READ as usize * 3, 0xee);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest");
    std::fs::write(&path, &bytes).unwrap();
    let image = Image::open(&path).unwrap();
    assert_eq!(image.bytes.len() as u64, FIRST_READ);
    std::fs::remove_file(&path).unwrap();
    assert!(image.bytes() == bytes);
    assert!(memory(&image, 0) == memory(&Builder::valid().parse().unwrap(), 0));
}

#[test]
fn what_is_no_file_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let text = |path: &Path| Image::open(path).unwrap_err().to_string();
    let path = directory.path();
    assert!(text(path).ends_with("is a directory, not a file: name the guest's ELF file"));
    assert!(text(path).contains(&path.display().to_string()));
    assert!(text(Path::new("/dev/null")).contains("/dev/null is a device"));
    let missing = path.join("missing");
    assert!(text(&missing).contains("/missing: No such file"), "{}", text(&missing));
    let script = path.join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    assert!(text(&script).contains("/script: it is not an ELF file"), "{}", text(&script));
    let huge = path.join("huge");
    File::create(&huge).unwrap().set_len(MAX_FILE_SIZE + 1).unwrap();
    assert!(text(&huge).contains("is larger than 256 MiB"), "{}", text(&huge));
}

#[test]
fn a_second_note_says_where_the_tasks_are_or_does_no_harm() {
    let tasks = |version: u32, distance: i64, size: u32| {
        let mut builder = Builder::valid();
        let end = builder.note.len() as u64;
        for word in [3, size, 2] {
            builder.note.extend(u32::to_le_bytes(word));
        }
        builder.note.extend(b"hv\0\0");
        builder.note.extend([version.to_le_bytes(), [0; 4]].as_flattened());
        builder.note.extend(distance.to_le_bytes());
        (builder.headers[NOTE].file, builder.headers[NOTE].memory) = (end + 16 + u64::from(size), end + 32);
        let field = builder.headers[NOTE].address + end + 24;
        (Image::parse(builder.build()).unwrap().tasks(), field)
    };
    let (found, field) = tasks(1, 0x100, 16);
    assert_eq!(found, Some(field + 0x100));
    assert_eq!(tasks(1, -8, 16).0, Some(field - 8));
    assert!(tasks(1, i64::MIN, 16).0.is_some(), "whoever looks there finds no memory");
    assert_eq!(tasks(2, 0x100, 16).0, None, "another version");
    assert_eq!(tasks(1, 0x100, 8).0, None, "too short");
    assert_eq!(Image::parse(Builder::valid().build()).unwrap().tasks(), None);
}
