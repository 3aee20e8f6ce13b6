//! The loader: any bytes as an image, and an image of a real guest with some of its bytes changed.

use crate::{Input, Seed};
use hv::loader::{Image, MAX_IMAGE_SIZE};
use hv::memory::Access;

/// A small guest, as the linker made it.
const GUEST: &[u8] = include_bytes!("../../tests/golden/snapshot-v1/image");

/// Images that are larger than this are validated, but not loaded.
const LOADED: u64 = 4 << 20;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let file = match input.byte() % 2 {
        0 => input.rest().to_vec(),
        _ => changed(GUEST, &mut input),
    };
    let Ok(image) = Image::parse(file) else { return };
    validate(&image);
}

/// `bytes` with some of them changed, and maybe cut.
pub(crate) fn changed(bytes: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while input.more() {
        let at = usize::from(input.half());
        match input.byte() % 4 {
            0 => bytes.truncate(at),
            // Numbers of the format, in their sizes.
            1 => put(&mut bytes, at, &(input.number() as u32).to_le_bytes()),
            2 => put(&mut bytes, at, &input.number().to_le_bytes()),
            _ => put(&mut bytes, at, input.bytes()),
        }
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, part: &[u8]) {
    let end = at.saturating_add(part.len()).min(bytes.len());
    if at < end {
        bytes[at..end].copy_from_slice(&part[..end - at]);
    }
}

/// What has to hold of an image that was taken.
pub(crate) fn validate(image: &Image) {
    let size = image.size();
    assert!(size <= MAX_IMAGE_SIZE.next_multiple_of(4096) && size.is_multiple_of(4096));
    assert!(image.alignment().is_power_of_two() && image.alignment() >= 4096);
    let mut end = 0;
    for segment in image.segments() {
        assert!(end <= segment.range.start && segment.range.start < segment.range.end);
        assert!(segment.range.end <= size && segment.access.contains(Access::READ));
        assert!(!segment.access.contains(Access::WRITE | Access::EXECUTE));
        end = segment.range.end;
    }
    let executable = |segment: &&hv::loader::Segment| segment.access.contains(Access::EXECUTE);
    assert!(image.segments().iter().filter(executable).any(|segment| segment.range.contains(&image.entry())));
    if size <= LOADED {
        image.load(0x4000_0000, &mut |offset, bytes| {
            let last = offset + bytes.len() as u64;
            let inside =
                |segment: &hv::loader::Segment| segment.range.start <= offset && last <= segment.range.end;
            assert!(last <= size && (bytes.len() > 8 || image.segments().iter().any(inside)), "{offset:#x}");
        });
    }
}

/// The guest as it is; its headers; changes of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let headers = Seed::default().byte(0).raw(&GUEST[..0x400]);
    let mut seeds = vec![vec![1], headers.done()];
    // The fields of the ELF header and of the first program headers.
    for at in [16u16, 18, 24, 32, 54, 56, 64, 68, 72, 80, 96, 104, 112, 120, 128, 176, 232, 288] {
        seeds.push(Seed::default().byte(1).half(at).byte(2).number(0x1000).done());
    }
    seeds.push(Seed::default().byte(1).half(0x2000).byte(0).done());
    seeds
}
