//! Files of the host, in a share.
#![forbid(unsafe_code)]

use super::block::{all, scatter};
use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use core::cell::{Cell, RefCell};
use hv_guest::abi::Errno;
use hv_guest::abi::io::share::{READ_DIR_MAX, ShareAttributes};
use hv_guest::block_on;
use hv_guest::share::{Entries, OPEN_DIRECTORY, OPEN_READ, ROOT, Share, WITH_ATTRIBUTES, shares};

/// What the host has put there (`hv/bench/src/files.rs`): a folder with so many files, each named by five digits, and a large file.
const NAMES: u64 = 10_000;
const FOLDER: &[u8] = b"names";
const LARGE: &[u8] = b"large";

fn share() -> Result<Share, String> {
    shares().next().ok_or_else(|| "the guest was given no share".into())
}

fn open(share: &Share, path: &[u8], flags: u16) -> Result<u64, String> {
    share.open(ROOT, path, OPEN_READ | flags).block().map_err(|errno| failed("opening", errno))
}

/// The name of a file.
fn name(number: u64) -> [u8; 5] {
    [10_000, 1000, 100, 10, 1].map(|unit| b'0' + (number / unit % 10) as u8)
}

/// Asks for attributes, `DEPTH` at a time.
fn stat<const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    let share = share()?;
    let folder = open(&share, FOLDER, OPEN_DIRECTORY)?;
    meter
        .phases(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let askers = (0..DEPTH).map(|_| async {
                let mut attributes = ShareAttributes::default();
                while next.get() < count {
                    let name = name(next.replace(next.get() + 1) % NAMES);
                    let start = tsc();
                    share.attributes(folder, &name, 0, &mut attributes).await?;
                    recorder.borrow_mut().record(tsc() - start);
                }
                Ok(())
            });
            block_on(all(askers.collect()))
        })
        .map_err(|errno: Errno| failed("asking for attributes", errno))
}

/// Reads the folder with all attributes, again and again.
fn list(meter: &mut Meter) -> Result<(), String> {
    let share = share()?;
    let folder = open(&share, FOLDER, OPEN_DIRECTORY)?;
    let mut buffer = vec![0; READ_DIR_MAX as usize];
    meter
        .batches(NAMES, |runs, recorder| {
            for _ in 0..runs {
                let (mut cookie, mut found) = (0, 0);
                let start = tsc();
                loop {
                    let filled = share.read_dir(folder, cookie, WITH_ATTRIBUTES, &mut buffer).block()?;
                    let Some(filled) = buffer.get(..filled as usize).filter(|filled| !filled.is_empty()) else { break };
                    for entry in Entries::new(filled, WITH_ATTRIBUTES) {
                        cookie = entry.cookie;
                        found += u64::from(entry.attributes.is_some_and(|attributes| attributes.size == 1));
                    }
                }
                recorder.record(tsc() - start);
                if found != NAMES {
                    return Err(Errno::Invalid);
                }
            }
            Ok(())
        })
        .map_err(|errno: Errno| failed("reading a folder", errno))
}

/// Reads `SIZE` bytes at a time, `DEPTH` reads in flight: one after the other in the file, or all over it.
fn read<const SIZE: usize, const DEPTH: usize, const SEQUENTIAL: bool>(meter: &mut Meter) -> Result<(), String> {
    let share = share()?;
    let file = open(&share, LARGE, 0)?;
    let mut attributes = ShareAttributes::default();
    share.attributes(file, b"", 0, &mut attributes).block().map_err(|errno| failed("the size", errno))?;
    let places = attributes.size / SIZE as u64;
    // As on the host, each buffer begins with a page: copies to odd places take up to five times as long.
    let mut memory = vec![1u8; SIZE * DEPTH + PAGE];
    let start = memory.as_ptr().align_offset(PAGE);
    let memory = &mut memory[start..][..SIZE * DEPTH];
    meter
        .phases(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let readers = memory.chunks_exact_mut(SIZE).map(|buffer| {
                let (next, recorder) = (&next, &recorder);
                async move {
                    while next.get() < count {
                        let number = next.replace(next.get() + 1);
                        let place = if SEQUENTIAL { number } else { scatter(number) } % places;
                        let start = tsc();
                        let read = share.read(file, place * SIZE as u64, buffer).await?;
                        recorder.borrow_mut().record(tsc() - start);
                        if read != SIZE as u64 {
                            return Err(Errno::Invalid);
                        }
                    }
                    Ok(())
                }
            });
            block_on(all(readers.collect()))
        })
        .map_err(|errno: Errno| failed("reading a file", errno))
}

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes that the attributes of a file are.
const ATTRIBUTES: u64 = size_of::<ShareAttributes>() as u64;

const fn operation(
    name: &'static str,
    against: &'static str,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let against = Some(against);
    Operation { name, group: "files", against, rig: Rig::Share, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "share-stat-d1",
        "host-stat",
        ATTRIBUTES,
        "The attributes of one of 10,000 files in a share, one question at a time.",
        stat::<1>,
    ),
    operation(
        "share-stat-d16",
        "host-stat",
        ATTRIBUTES,
        "The attributes of one of 10,000 files in a share, 16 questions in flight.",
        stat::<16>,
    ),
    operation(
        "share-list",
        "host-list",
        0,
        "An entry, with its attributes, of a folder of 10,000 files in a share.",
        list,
    ),
    operation(
        "share-read-1m",
        "host-read-1m",
        1 << 20,
        "1 MiB of a file in a share, one read after the other, from the host's page cache.",
        read::<{ 1 << 20 }, 1, true>,
    ),
    operation(
        "share-read-4k-d16",
        "host-read-4k",
        4096,
        "4 KiB from anywhere in a file in a share, 16 reads in flight, from the host's page cache.",
        read::<4096, 16, false>,
    ),
];
