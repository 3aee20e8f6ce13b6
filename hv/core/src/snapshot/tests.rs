//! Hostile snapshots: the golden one, changed in many ways.

use super::header::{PARTS, Part, StateFileError, compose, parse};
use super::open::{OpenError, open};
use super::{Features, IMAGE, MEMORY, STATE, Snapshot};
use crate::memory::{Access, GuestMemory};
use crate::platform::Platform;
use crate::platform::fake::FakePlatform;
use crate::platform::kvm::KvmPlatform;
use hv_abi::{GuestAddr, PAGE_SIZE};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zerocopy::{FromBytes, IntoBytes};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/snapshot-v1")
}

fn state() -> Vec<u8> {
    fs::read(golden().join(STATE)).unwrap()
}

/// The one whose tables are made from what a snapshot says, if this host has it.
fn platform() -> &'static dyn Platform {
    static PLATFORM: OnceLock<Box<dyn Platform>> = OnceLock::new();
    &**PLATFORM.get_or_init(|| match KvmPlatform::new() {
        Ok(platform) => Box::new(platform),
        Err(_) => Box::new(FakePlatform::new([])),
    })
}

/// A copy of the golden snapshot that can be changed.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Copy(tempfile::tempdir().unwrap());
        for name in [STATE, MEMORY, IMAGE] {
            fs::copy(golden().join(name), copy.0.path().join(name)).unwrap();
        }
        copy
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn open(&self) -> Result<Snapshot, OpenError> {
        open(self.0.path(), platform(), Features::of_host())
    }
}

/// What must hold of every snapshot that is taken, whoever made it.
fn validate(snapshot: &Snapshot) {
    let memory = GuestMemory::of_template(snapshot.template()).unwrap();
    let saved = snapshot.saved();
    let write = Access::READ | Access::WRITE;
    let at = |offset: u64| GuestAddr(memory.base().0 + offset);
    let mut last = 2 * PAGE_SIZE;
    for (range, access) in memory.map() {
        assert!(last <= range.start && range.start < range.end && range.end <= memory.size());
        assert!(!access.contains(Access::WRITE | Access::EXECUTE));
        last = range.end;
    }
    assert!(memory.base().0.is_multiple_of(2 << 20));
    assert!(memory.base().0 >= 512 << 30 && memory.base().0 + memory.size() < 1 << 47);
    assert!(memory.check(GuestAddr(saved.cpus[0].rip), 1, Access::EXECUTE).is_ok());
    let places = &saved.places;
    assert!(memory.check(at(places.hypercall_page), PAGE_SIZE, Access::EXECUTE).is_ok());
    assert!(memory.check(at(places.shared_info), 376, write).is_ok());
    assert!(memory.check(at(places.devices), 128 * saved.devices.len() as u64, Access::READ).is_ok());
    for ring in
        saved.devices.iter().flat_map(|device| &device.rings).filter(|ring| ring.address != GuestAddr(0))
    {
        assert!(ring.address.0.is_multiple_of(64) && ring.event.0 < 1023);
        assert!(memory.check(ring.address, 192 + u64::from(ring.requests), write).is_ok());
    }
    snapshot.hot_pages().iter().for_each(|range| memory.populate(range.clone()));
    assert!(places.upcall == 0 || memory.check(at(places.upcall), 1, Access::EXECUTE).is_ok());
    assert!(places.image + snapshot.image().size() <= memory.size());
}

#[test]
fn the_golden_snapshot_is_read() {
    let snapshot = Copy::new().open().unwrap();
    validate(&snapshot);
    assert_eq!(snapshot.saved().name, "golden");
    assert!(snapshot.features().is_empty() && snapshot.disks().is_empty());
}

#[test]
fn what_is_read_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again");
    Copy::new().open().unwrap().write(&again).unwrap();
    for name in [MEMORY, IMAGE] {
        assert!(fs::read(golden().join(name)).unwrap() == fs::read(again.join(name)).unwrap(), "{name}");
    }
    let (before, after) = (state(), fs::read(again.join(STATE)).unwrap());
    let (before, after) = (parse(&before).unwrap(), parse(&after).unwrap());
    assert_eq!(before.facts, after.facts);
    for (part, name) in PARTS {
        // The handler of upcalls, the free map and the heap, which ABI 1.1 did not have, and this guest has not either.
        let more: &[u8] = if part == Part::Offsets { &[0; 24] } else { &[] };
        assert_eq!([before.part(part), more].concat(), after.part(part), "{name}");
    }
}

#[test]
fn a_processor_without_what_the_guest_uses_is_told() {
    let copy = Copy::new();
    let bytes = state();
    let parsed = parse(&bytes).unwrap();
    let mut facts = parsed.facts;
    facts.features.as_mut_bytes()[0] = 0x80;
    copy.write(STATE, &compose(facts, &PARTS.map(|(part, _)| (part, parsed.part(part).to_vec()))));
    let refused = open(copy.0.path(), platform(), Features::default()).err().unwrap().to_string();
    assert!(
        refused.ends_with("this processor lacks (feature 0.7); restore it on a host that has them"),
        "{refused}"
    );
}

/// A change of the parts that the checksums do not give away.
#[derive(Clone, Debug)]
enum Forgery {
    /// A byte of a part becomes another.
    Byte(usize, Index, u8),
    /// A word of a part becomes something that is worth trying.
    Word(usize, Index, u64),
    Shorter(usize, Index),
    Longer(usize, Vec<u8>),
    /// A word of the facts.
    Fact(Index, u64),
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::MAX - 4095),
        Just(1 << 63),
        (0..80u64).prop_map(|page| page * PAGE_SIZE),
        (0..80u64).prop_map(|page| page * PAGE_SIZE - u64::from(page > 0) * 8),
        (0..48u32).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}

fn forgery() -> impl Strategy<Value = Forgery> {
    let part = 0..PARTS.len();
    prop_oneof![
        4 => (part.clone(), any::<Index>(), any::<u8>()).prop_map(|(p, at, to)| Forgery::Byte(p, at, to)),
        8 => (part.clone(), any::<Index>(), word()).prop_map(|(p, at, to)| Forgery::Word(p, at, to)),
        1 => (part.clone(), any::<Index>()).prop_map(|(p, to)| Forgery::Shorter(p, to)),
        1 => (part, proptest::collection::vec(any::<u8>(), 1..200)).prop_map(|(p, more)| Forgery::Longer(p, more)),
        2 => (any::<Index>(), word()).prop_map(|(at, to)| Forgery::Fact(at, to)),
    ]
}

fn put_word(bytes: &mut [u8], at: Index, to: u64) {
    if bytes.len() >= 8 {
        let at = at.index(bytes.len() / 8) * 8;
        bytes[at..at + 8].copy_from_slice(&to.to_le_bytes());
    }
}

fn forge(state: &[u8], forgeries: &[Forgery]) -> Vec<u8> {
    let parsed = parse(state).unwrap();
    let mut facts = parsed.facts;
    let mut parts = PARTS.map(|(part, _): (Part, _)| (part, parsed.part(part).to_vec()));
    for forgery in forgeries {
        match forgery {
            Forgery::Byte(part, at, to) if !parts[*part].1.is_empty() => {
                let bytes = &mut parts[*part].1;
                let at = at.index(bytes.len());
                bytes[at] = *to;
            }
            Forgery::Byte(..) => {}
            Forgery::Word(part, at, to) => put_word(&mut parts[*part].1, *at, *to),
            Forgery::Shorter(part, to) => {
                let bytes = &mut parts[*part].1;
                bytes.truncate(to.index(bytes.len() + 1));
            }
            Forgery::Longer(part, more) => parts[*part].1.extend_from_slice(more),
            // The processor's features come first, and would be all that is found.
            Forgery::Fact(at, to) => put_word(&mut facts.as_mut_bytes()[32..], *at, *to),
        }
    }
    compose(facts, &parts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn bits_that_flip_and_bytes_that_go_are_noticed(
        changes in proptest::collection::vec((any::<Index>(), 1..=255u8), 0..4),
        len in proptest::option::of(any::<Index>()),
    ) {
        let whole = state();
        let mut bytes = whole.clone();
        for (at, flip) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Some(len) = len {
            bytes.truncate(len.index(bytes.len()));
        }
        match parse(&bytes) {
            // Between the sections there are bytes without meaning.
            Ok(parsed) => {
                let good = parse(&whole).unwrap();
                prop_assert!(PARTS.iter().all(|(part, _)| parsed.part(*part) == good.part(*part)));
            }
            Err(StateFileError::Truncated(missing)) => prop_assert!(missing > 0),
            Err(_) => {}
        }
    }

    #[test]
    fn whatever_is_forged_is_refused_or_could_be_a_guest(forgeries in proptest::collection::vec(forgery(), 1..4)) {
        thread_local! { static COPY: Copy = Copy::new(); }
        COPY.with(|copy| {
            copy.write(STATE, &forge(&state(), &forgeries));
            match copy.open() {
                Ok(snapshot) => validate(&snapshot),
                Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_are_noticed(name in 0..3usize, at in any::<Index>(), flip in 1..=255u8, cut in any::<bool>()) {
        let name = [STATE, MEMORY, IMAGE][name];
        let copy = Copy::new();
        let mut bytes = fs::read(golden().join(name)).unwrap();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= flip,
        }
        copy.write(name, &bytes);
        match copy.open() {
            Ok(snapshot) => {
                prop_assert_eq!(name, STATE, "only between its sections");
                validate(&snapshot);
            }
            Err(error) => prop_assert!(error.to_string().contains(copy.0.path().to_str().unwrap()), "{}", error),
        }
    }
}

#[test]
fn forged_ranges_over_the_hosts_pages_are_refused() {
    let copy = Copy::new();
    let bytes = state();
    let with = |part: Part, change: &dyn Fn(&mut Vec<u8>)| {
        let parsed = parse(&bytes).unwrap();
        let mut parts = PARTS.map(|(part, _)| (part, parsed.part(part).to_vec()));
        change(&mut parts[part as usize].1);
        copy.write(STATE, &compose(parsed.facts, &parts));
        copy.open().err().expect("it is refused").to_string()
    };
    let refused = with(Part::Access, &|bytes| bytes[..8].fill(0));
    assert!(refused.ends_with("state: damaged: the access map"), "{refused}");
    // Code that can be written.
    let refused = with(Part::Access, &|bytes| bytes[16] = 7);
    assert!(refused.ends_with("state: damaged: the access map"), "{refused}");
    let refused = with(Part::Cpu, &|bytes| bytes[128..136].copy_from_slice(&8_u64.to_le_bytes()));
    assert!(refused.ends_with("state: damaged: the instruction pointer"), "{refused}");
    // A guest none of whose virtual CPUs runs; and more of them than it has pages.
    let refused = with(Part::Cpu, &|bytes| bytes[128..136].fill(0));
    assert!(refused.ends_with("state: damaged: the virtual CPUs"), "{refused}");
    for (count, what) in
        [(0, "the virtual CPU"), (2, "the place of the hypercall page"), (65, "the virtual CPU")]
    {
        let refused = with(Part::Cpu, &|bytes| *bytes = bytes.repeat(count));
        assert!(refused.ends_with(&format!("state: damaged: {what}")), "{count}: {refused}");
    }
    let refused = with(Part::Devices, &|bytes| bytes[16..20].copy_from_slice(&(1_u32 << 20).to_le_bytes()));
    assert!(refused.ends_with("state: damaged: the size of a ring"), "{refused}");
    let refused = with(Part::Devices, &|bytes| bytes[8..16].fill(0));
    assert!(refused.ends_with("state: damaged: the place of a ring"), "{refused}");
    let refused = with(Part::Offsets, &|bytes| bytes[32..40].fill(0));
    assert!(refused.ends_with("state: damaged: the place of the hypercall page"), "{refused}");
    let word = |value: u64| move |bytes: &mut Vec<u8>| bytes.extend_from_slice(&value.to_le_bytes());
    for handler in [PAGE_SIZE, 1 << 40, 1 << 63, u64::MAX] {
        let refused = with(Part::Offsets, &word(handler));
        assert!(refused.ends_with("state: damaged: the handler of upcalls"), "{refused}");
    }
    // A free map outside of what the guest may write, misaligned, or of a heap that is not the guest's to write.
    for (map, heap) in
        [(8, PAGE_SIZE), (PAGE_SIZE, 0), (u64::MAX, PAGE_SIZE), (12, 1), (8, 1 << 40), (8, u64::MAX)]
    {
        let words = [0, map, heap].map(u64::to_le_bytes).concat();
        let refused = with(Part::Offsets, &|bytes| bytes.extend_from_slice(&words));
        assert!(refused.ends_with("state: damaged: the place of the free map"), "{refused}");
    }
    let hypercall_page = u64::read_from_bytes(&parse(&bytes).unwrap().part(Part::Offsets)[32..40]).unwrap();
    copy.write(STATE, &{
        let parsed = parse(&bytes).unwrap();
        let mut parts = PARTS.map(|(part, _)| (part, parsed.part(part).to_vec()));
        word(hypercall_page)(&mut parts[Part::Offsets as usize].1);
        compose(parsed.facts, &parts)
    });
    assert_eq!(copy.open().unwrap().saved().places.upcall, hypercall_page, "code, if an odd choice");
    let name = u64::read_from_bytes(b"control\n").unwrap();
    let refused = with(Part::Name, &|bytes| *bytes = name.as_bytes().to_vec());
    assert!(refused.ends_with("state: damaged: the name"), "{refused}");
}
