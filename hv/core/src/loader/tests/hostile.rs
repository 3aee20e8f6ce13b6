//! Whatever the bytes: no panic, and no write outside the image.

use super::super::*;
use super::builder::{Builder, Header};
use proptest::prelude::*;

/// Values that break arithmetic, or that nearly fit.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..0x8000,
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..0x10).prop_map(|back| u64::MAX - back),
        (0u64..0x10).prop_map(|back| MAX_IMAGE_SIZE - back),
    ]
}

#[derive(Clone, Debug)]
enum Spoil {
    Flip(usize, u8),
    Word(usize, u64),
    Header { index: usize, field: usize, value: u64 },
    Rela { index: usize, field: usize, value: u64 },
    Relr(Vec<u64>),
    Dynamic(i64, u64),
    Cut(usize),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        (0usize..0x3048, any::<u8>()).prop_map(|(at, byte)| Spoil::Flip(at, byte)),
        (0usize..0x260, value()).prop_map(|(at, word)| Spoil::Word(at * 8 % 0x800, word)),
        (0usize..7, 0usize..7, value()).prop_map(|(index, field, value)| Spoil::Header {
            index,
            field,
            value
        }),
        (0usize..3, 0usize..3, value()).prop_map(|(index, field, value)| Spoil::Rela { index, field, value }),
        prop::collection::vec(value(), 0..4).prop_map(Spoil::Relr),
        (0i64..40, value()).prop_map(|(tag, value)| Spoil::Dynamic(tag, value)),
        (0usize..0x3048).prop_map(Spoil::Cut),
    ]
}

fn set(header: &mut Header, field: usize, value: u64) {
    match field {
        0 => header.kind = value as u32,
        1 => header.flags = value as u32,
        2 => header.offset = value,
        3 => header.address = value,
        4 => header.file = value,
        5 => header.memory = value,
        _ => header.align = value,
    }
}

fn image(spoils: &[Spoil]) -> Vec<u8> {
    let mut builder = Builder::valid();
    for spoil in spoils {
        match spoil {
            Spoil::Header { index, field, value } => set(&mut builder.headers[*index], *field, *value),
            Spoil::Rela { index, field, value } => builder.rela[*index][*field] = *value,
            Spoil::Relr(entries) => builder.relr = entries.clone(),
            Spoil::Dynamic(tag, value) if builder.dynamic.len() < 4 => builder.dynamic.push((*tag, *value)),
            _ => {}
        }
    }
    let mut bytes = builder.build();
    for spoil in spoils {
        match spoil {
            Spoil::Flip(at, byte) if *at < bytes.len() => bytes[*at] ^= byte,
            Spoil::Word(at, word) if *at + 8 <= bytes.len() => {
                bytes[*at..*at + 8].copy_from_slice(&word.to_le_bytes())
            }
            Spoil::Cut(len) => bytes.truncate(*len),
            _ => {}
        }
    }
    bytes
}

/// What [`Image`] promises of any image that was not refused.
fn keeps_its_promises(image: &Image) {
    let size = image.size();
    assert!(size <= MAX_IMAGE_SIZE && image.alignment() <= MAX_ALIGNMENT);
    let mut end = 0;
    for segment in image.segments() {
        let Range { start, end: next } = segment.range;
        assert!(start >= end && start < next && next <= size);
        assert!(start.is_multiple_of(PAGE_SIZE) && next.is_multiple_of(PAGE_SIZE));
        assert!(segment.access.contains(Access::READ));
        assert!(!segment.access.contains(Access::WRITE | Access::EXECUTE));
        end = next;
    }
    let code = |s: &Segment| s.access.contains(Access::EXECUTE) && s.range.contains(&image.entry());
    assert!(image.segments().iter().any(code));
    image.load(0x7f00_0000_0000, &mut |offset, bytes| {
        let end = offset.checked_add(bytes.len() as u64).unwrap();
        assert!(end <= size && !bytes.is_empty());
        let covered = image.loads.iter().any(|load| load.memory.start <= offset && end <= load.memory.end);
        assert!(covered, "{offset:#x} is inside a segment");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_image_makes_the_loader_panic_or_write_elsewhere(spoils in prop::collection::vec(spoil(), 1..5)) {
        if let Ok(image) = Image::parse(image(&spoils)) {
            keeps_its_promises(&image);
        }
    }
}
