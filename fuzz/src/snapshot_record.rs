//! Records of disks in snapshots: bytes as records, and the record of a disk with something changed.

use crate::image::changed;
use crate::{Input, Seed};
use hv::device::block::{Disk, DiskRecord};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::time::SystemTime;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// Flags of a record, as docs/snapshots.md has them.
const READ_ONLY: u32 = 1;
const OVERLAY: u32 = 4;
const FILE: u32 = 8;
const FOLDER: u32 = 16;
const QCOW2: u32 = 32;

/// Bytes of a record before its path.
const FORM: usize = 40;

/// Where its flags are, and the length of its path.
const FLAGS: usize = 32;
const PATH: usize = 36;

/// A disk that a guest may be given, and its record.
struct Known {
    disk: Disk,
    read_only: bool,
    /// XXH3 of all its bytes, of a folder.
    folder: Option<u64>,
    record: Vec<u8>,
}

static KNOWN: LazyLock<(TempDir, Vec<Known>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, site) = (folder.path().join("a.img"), folder.path().join("site"));
    fs::write(&image, [7; 8192]).expect("a file");
    let file = File::options().write(true).open(&image).expect("it is there");
    file.set_modified(SystemTime::UNIX_EPOCH).expect("its own file");
    fs::create_dir(&site).expect("a folder");
    let disks = [
        (&image, ",ro", true),
        (&image, ",overlay", false),
        (&image, ",ro,sector=4096", true),
        (&site, "", true),
        (&site, ",overlay", false),
    ];
    let known = disks.map(|(path, options, read_only)| {
        let spec = format!("{}{options}", path.display()).parse().expect("a disk");
        let disk = Disk::open(&spec).expect("it is there");
        let mut record = Vec::new();
        DiskRecord::new(&spec, &disk).expect("it can be looked at").save(&mut record);
        // The same on every host.
        record.truncate(FORM);
        record[PATH..].copy_from_slice(&2_u32.to_le_bytes());
        record.extend(b"/d");
        let mut bytes = vec![0; disk.size() as usize];
        rustix::io::pread(disk.as_fd(), &mut bytes, 0).expect("it can be read");
        let folder = (*path == site).then(|| xxh3_64(&bytes));
        Known { disk, read_only, folder, record }
    });
    (folder, known.into())
});

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let known = &KNOWN.1;
    let which = &known[usize::from(input.byte()) % known.len()];
    let bytes = match input.byte() % 4 {
        0 => input.rest().to_vec(),
        _ => changed(&which.record, &mut input),
    };
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let before = rest;
        let Some(record) = DiskRecord::load(&mut rest) else { break };
        let taken = &before[..before.len() - rest.len()];
        validate(&record, taken);
        for known in known {
            assert_eq!(record.check(&known.disk).is_ok(), fits(taken, known), "{record}");
        }
    }
}

/// What holds of every record.
fn validate(record: &DiskRecord, bytes: &[u8]) {
    let mut again = Vec::new();
    record.save(&mut again);
    assert_eq!(again, bytes);
    let text = record.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    let trusted = record.trusted();
    assert!(trusted.read_only != trusted.overlay && !trusted.direct, "{trusted:?}");
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Whether a record is of this disk, from what the manual says about its bytes.
fn fits(record: &[u8], known: &Known) -> bool {
    let flags = word(record, FLAGS);
    let has = |flag: u32| flags & flag != 0;
    let read_only = has(READ_ONLY) || (has(FOLDER) && !has(OVERLAY));
    let metadata = known.disk.metadata().expect("it is open");
    let time = (metadata.mtime() as u64, metadata.mtime_nsec() as u32);
    long(record, 0) == known.disk.size()
        && word(record, 20) == known.disk.sector_size()
        && read_only == known.read_only
        // None of them is one.
        && !has(QCOW2)
        && (!has(FILE) || (long(record, 8), word(record, 16)) == time)
        && has(FOLDER).then(|| long(record, 24)) == known.folder
}

/// Each record, and a change of each of its fields.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, known) in KNOWN.1.iter().enumerate() {
        let which = Seed::default().byte(which as u8);
        seeds.push(which.clone().byte(1).done());
        for at in [0u16, 8, 16, 20, 24, 32, 36, 40] {
            seeds.push(which.clone().byte(1).half(at).byte(1).number(27).done());
        }
        let mut path = known.record[..FORM].to_vec();
        path[PATH..].copy_from_slice(&10_u32.to_le_bytes());
        // Not the times of folders' images, which are another each time.
        path[8..20].fill(0);
        path.extend(b"/\x1b[2J\n\xff\xe2\x80\xae");
        seeds.push(which.byte(0).raw(&[&path[..], &path].concat()).done());
    }
    seeds
}
