//! Disks with an overlay, against a model.

use super::*;
use hv_abi::io::block::*;
use proptest::prelude::*;

const SECTORS: u64 = 256;
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u64),
    Write(u64, u64, u64),
    Zero(u64, u64),
    Discard(u64, u64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let span = (0..SECTORS, 1..40u64).prop_map(|(at, len)| (at, len.min(SECTORS - at)));
    prop_oneof![
        3 => span.clone().prop_map(|(at, len)| Step::Read(at, len)),
        3 => (span.clone(), any::<u64>()).prop_map(|((at, len), seed)| Step::Write(at, len, seed)),
        1 => span.clone().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => span.prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Flush),
    ]
}

/// A scatter list of so many sectors in up to four pieces.
fn pieces(sectors: u64) -> Vec<Segment> {
    let bytes = sectors * SECTOR as u64;
    let part = (sectors / 4).max(1) * SECTOR as u64;
    let mut segments = Vec::new();
    let mut at = 0;
    while at < bytes {
        let len = if segments.len() == 3 { bytes - at } else { part.min(bytes - at) };
        // Out of order in memory.
        segments.push(segment(DATA + (3 - segments.len() as u64) * 0x1_0000, len as u32));
        at += len;
    }
    segments
}

fn spec(path: &Path) -> DiskSpec {
    DiskSpec { overlay: true, ..DiskSpec::new(path) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn a_guest_reads_what_it_wrote_and_the_file_stays_as_it_was(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let folder = folder();
        let content = pattern(1, SECTORS as usize * SECTOR);
        let path = file(&folder, &content);
        let mut model = content.clone();
        // What may read as old or as zero, by sector.
        let mut loose = vec![false; SECTORS as usize];
        let mut rig = Rig::new(&spec(&path), EngineKind::Auto);
        for step in steps {
            let range = |at: u64, len: u64| at as usize * SECTOR..(at + len) as usize * SECTOR;
            match step {
                Step::Read(at, len) => {
                    let segments = pieces(len);
                    prop_assert_eq!(rig.transfer(OP_READ, at, &segments), Ok(0));
                    let found: Vec<u8> =
                        segments.iter().flat_map(|s| rig.peek(s.address.0, s.len as usize)).collect();
                    for sector in 0..len as usize {
                        let part = sector * SECTOR..(sector + 1) * SECTOR;
                        let number = at as usize + sector;
                        let right = found[part.clone()] == model[number * SECTOR..][..SECTOR];
                        let zero = loose[number] && found[part].iter().all(|&byte| byte == 0);
                        prop_assert!(right || zero, "sector {}", number);
                    }
                }
                Step::Write(at, len, seed) => {
                    let bytes = pattern(seed, len as usize * SECTOR);
                    let segments = pieces(len);
                    let mut rest = &bytes[..];
                    for s in &segments {
                        let (head, tail) = rest.split_at(s.len as usize);
                        rig.poke(s.address.0, head);
                        rest = tail;
                    }
                    prop_assert_eq!(rig.transfer(OP_WRITE, at, &segments), Ok(0));
                    model[range(at, len)].copy_from_slice(&bytes);
                    loose[at as usize..(at + len) as usize].fill(false);
                }
                Step::Zero(at, len) => {
                    prop_assert_eq!(rig.span(OP_WRITE_ZEROES, at, len), Ok(0));
                    model[range(at, len)].fill(0);
                    loose[at as usize..(at + len) as usize].fill(false);
                }
                Step::Discard(at, len) => {
                    prop_assert_eq!(rig.span(OP_DISCARD, at, len), Ok(0));
                    loose[at as usize..(at + len) as usize].fill(true);
                }
                Step::Flush => prop_assert_eq!(rig.span(OP_FLUSH, 0, 0), Ok(0)),
            }
        }
        drop(rig);
        prop_assert!(std::fs::read(&path).unwrap() == content);
    }
}

#[test]
fn overlays_of_one_disk_know_nothing_of_each_other() {
    let folder = folder();
    let content = pattern(1, SECTORS as usize * SECTOR);
    let path = file(&folder, &content);
    let disk = Disk::open(&spec(&path)).unwrap();
    let shared = disk.share().unwrap();
    assert_eq!(disk.config(), shared.config());
    let (mut one, mut other) = (Rig::with(disk, EngineKind::Auto), Rig::with(shared, EngineKind::Uring));
    one.poke(DATA, &[7; SECTOR]);
    let sector = [segment(DATA, SECTOR as u32)];
    assert_eq!(one.transfer(OP_WRITE, 5, &sector), Ok(0));
    assert_eq!(other.transfer(OP_READ, 5, &sector), Ok(0));
    assert!(other.peek(DATA, SECTOR) == content[5 * SECTOR..][..SECTOR]);
}

#[test]
fn the_next_guest_of_a_machine_finds_nothing_of_the_one_before() {
    let folder = folder();
    let path = file(&folder, &pattern(1, SECTORS as usize * SECTOR));
    let disk = Disk::open(&spec(&path)).unwrap();
    let overlay = disk.overlay().unwrap().clone();
    let mut rig = Rig::with(disk, EngineKind::Auto);
    assert_eq!(rig.transfer(OP_WRITE, 5, &[segment(DATA, SECTOR as u32)]), Ok(0));
    assert!(!overlay.is_empty());
    assert!(Source::settle(&mut rig.device) && rig.device.reset());
    assert!(overlay.is_empty());
}

#[test]
fn a_folder_with_an_overlay_can_be_written() {
    let folder = folder();
    std::fs::write(folder.path().join("a.txt"), "a").unwrap();
    let mut rig = Rig::new(&spec(folder.path()), EngineKind::Auto);
    rig.poke(DATA, &[7; SECTOR]);
    let sector = [segment(DATA, SECTOR as u32)];
    assert_eq!(rig.transfer(OP_WRITE, 0, &sector), Ok(0));
    rig.poke(DATA, &[0; SECTOR]);
    assert_eq!(rig.transfer(OP_READ, 0, &sector), Ok(0));
    assert_eq!(rig.peek(DATA, SECTOR), [7; SECTOR]);
}
