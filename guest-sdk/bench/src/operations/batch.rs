//! Asking a device for several things at once.

use super::block::{all, scatter};
use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use hv_guest::abi::Errno;
use hv_guest::{block, block_on};

const SECTOR: usize = 512;

/// Submits `BATCH` reads of a sector together, and waits for all of them.
fn read<const BATCH: usize>(meter: &mut Meter) -> Result<(), String> {
    let disk = block::disk(0).ok_or("the guest was given no disk")?;
    let mut memory = vec![1u8; SECTOR * BATCH];
    meter
        .batches(BATCH as u64, |batches, recorder| {
            for batch in 0..batches {
                let reads = memory.chunks_exact_mut(SECTOR).enumerate().map(|(n, buffer)| {
                    disk.read(scatter(batch * BATCH as u64 + n as u64) % disk.sectors(), buffer)
                });
                let start = tsc();
                block_on(all(reads.collect()))?;
                recorder.record(tsc() - start);
            }
            Ok(())
        })
        .map_err(|errno: Errno| failed("reading the disk", errno))
}

const fn operation(
    name: &'static str,
    batch: u32,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let curve = Some(("requests of a disk", batch));
    Operation { name, group: "events", against: None, rig: Rig::Disk, bytes: 0, curve, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation("requests-1", 1, "A request to a disk in the page cache and its response, alone.", read::<1>),
    operation("requests-8", 8, "The same in batches of 8: the time of one of them.", read::<8>),
    operation("requests-64", 64, "The same in batches of 64: the time of one of them.", read::<64>),
];
