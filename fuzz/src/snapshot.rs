//! Snapshots: the file `state` as bytes, and a folder whose parts say something else than they did,
//! with checksums that are right.

use crate::image::{changed, validate};
use crate::{Input, Seed};
use hv::memory::{Access, GuestMemory};
use hv::platform::Platform;
use hv::platform::fake::FakePlatform;
use hv::platform::kvm::KvmPlatform;
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_core::fuzzing::snapshot as door;
use std::fs;
use std::sync::LazyLock;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

const STATE: &[u8] = include_bytes!("../../tests/golden/snapshot-v1/state");
const MEMORY: &[u8] = include_bytes!("../../tests/golden/snapshot-v1/memory");
const IMAGE: &[u8] = include_bytes!("../../tests/golden/snapshot-v1/image");

/// Where the facts tell the length of the image, and its checksum.
const IMAGE_FACTS: std::ops::Range<usize> = 56..72;

/// A folder with the golden snapshot, of which each input changes something.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("memory"), MEMORY).expect("a file");
    fs::write(folder.path().join("image"), IMAGE).expect("a file");
    folder
});

/// The platform whose tables are made from what a snapshot says, if this host has it.
static PLATFORM: LazyLock<Box<dyn Platform>> = LazyLock::new(|| match KvmPlatform::new() {
    Ok(platform) => Box::new(platform),
    Err(_) => Box::new(FakePlatform::new([])),
});

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 4 {
        0 => drop(door::take_apart(input.rest())),
        1 => open(&changed(STATE, &mut input)),
        _ => open(&forged(&mut input)),
    }
}

/// The file `state` with other facts or parts.
fn forged(input: &mut Input<'_>) -> Vec<u8> {
    let (mut facts, mut parts) = door::take_apart(STATE).expect("it is whole");
    let image = match input.byte() % 8 {
        0 => changed(IMAGE, &mut Input::new(input.bytes())),
        _ => IMAGE.to_vec(),
    };
    // Three times out of four the checksum of a changed image is changed, too.
    if image != IMAGE || input.byte().is_multiple_of(4) {
        facts[IMAGE_FACTS]
            .copy_from_slice([image.len() as u64, xxh3_64(&image)].map(u64::to_le_bytes).as_flattened());
    }
    fs::write(FOLDER.path().join("image"), &image).expect("it is writable");
    while input.more() {
        let which = usize::from(input.byte()) % (parts.len() + 1);
        let changes = input.bytes();
        match parts.get_mut(which) {
            None => {
                facts = changed(&facts, &mut Input::new(changes));
                facts.resize(72, 0);
            }
            // Longer ones as well: bytes behind a part's own.
            Some(part) if changes.first().is_some_and(|byte| *byte == 0xff) => part.extend(&changes[1..]),
            Some(part) => *part = changed(part, &mut Input::new(changes)),
        }
    }
    door::put_together(&facts, parts).expect("the facts are of their size")
}

fn open(state: &[u8]) {
    fs::write(FOLDER.path().join("state"), state).expect("it is writable");
    let snapshot = match door::open(FOLDER.path(), &**PLATFORM) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains('\n') && message.len() < 1000, "{message:?}");
            return;
        }
    };
    let memory = GuestMemory::of_template(snapshot.template()).expect("there is memory");
    let saved = snapshot.saved();
    let write = Access::READ | Access::WRITE;
    let at = |offset: u64| GuestAddr(memory.base().0 + offset);
    let mut last = 0;
    for (range, access) in memory.map() {
        assert!(last <= range.start && range.start < range.end && range.end <= memory.size());
        assert!(!access.contains(Access::WRITE | Access::EXECUTE));
        last = range.end;
    }
    assert!(memory.check(GuestAddr(saved.cpus[0].rip), 1, Access::EXECUTE).is_ok());
    let places = &saved.places;
    assert!(memory.check(at(places.hypercall_page), PAGE_SIZE, Access::EXECUTE).is_ok());
    assert!(memory.check(at(places.shared_info), 368, write).is_ok());
    assert!(memory.check(at(places.devices), 128 * saved.devices.len() as u64, Access::READ).is_ok());
    for ring in saved.devices.iter().flat_map(|device| &device.rings).filter(|ring| ring.address.0 != 0) {
        assert!(memory.check(ring.address, 192 + u64::from(ring.requests), write).is_ok());
    }
    snapshot.hot_pages().iter().for_each(|range| memory.populate(range.clone()));
    assert!(places.image + snapshot.image().size() <= memory.size());
    validate(snapshot.image());
}

/// The golden snapshot, and a change of each part.
pub fn seeds() -> Vec<Vec<u8>> {
    let whole = Seed::default().byte(2).byte(1).byte(1);
    let mut seeds = vec![Seed::default().byte(0).raw(STATE).done(), whole.clone().done()];
    for at in [8u16, 16, 24, 32, 64, 120, 264] {
        seeds.push(Seed::default().byte(1).half(at).byte(1).number(2).done());
    }
    for part in 0..8 {
        for at in [0u16, 8, 24, 64] {
            let change = Seed::default().half(at).byte(2).number(0x1000).done();
            seeds.push(whole.clone().byte(part).bytes(&change).done());
        }
        seeds.push(whole.clone().byte(part).bytes(&[0xff, 1, 0, 0, 0, 2, 0, 0, 0]).done());
    }
    let image = Seed::default().half(24).byte(2).number(0).done();
    seeds.push(Seed::default().byte(2).byte(0).bytes(&image).done());
    seeds
}
