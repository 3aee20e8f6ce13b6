//! Reading the same disk through virtio-mmio.

use super::block::scatter;
use crate::hardware::block::{Slot, VirtioDisk};
use crate::meter::{Meter, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use hv_guest::{block_on, event};

/// Reads `SIZE` bytes at a time, `DEPTH` reads in flight. The guest waits as it does for a paravirtual disk.
fn read<const SIZE: usize, const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    let mut slots: Vec<Slot> = (0..DEPTH).map(|_| Slot::new(SIZE)).collect();
    let mut disk = VirtioDisk::open()?;
    let sectors = SIZE as u64 / 512;
    let places = disk.sectors() / sectors;
    let mut started = vec![0; DEPTH];
    meter.phases(|count, recorder| {
        block_on(async {
            let (mut next, mut done) = (0, 0);
            let mut free: Vec<usize> = (0..DEPTH).collect();
            while done < count {
                let mut submitted = false;
                while next < count
                    && let Some(slot) = free.pop()
                {
                    started[slot] = tsc();
                    disk.submit(&mut slots[slot], scatter(next) % places * sectors)?;
                    next += 1;
                    submitted = true;
                }
                if submitted {
                    disk.notify();
                }
                let before = done;
                while let Some(slot) = disk.finished(&mut slots)? {
                    recorder.record(tsc() - started[slot]);
                    free.push(slot);
                    done += 1;
                }
                if done == before {
                    disk.wait().await;
                }
            }
            Ok(())
        })
    })
}

/// The same while neither the guest nor the device polls.
fn read_asleep<const SIZE: usize, const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    event::stop_polling();
    read::<SIZE, DEPTH>(meter)
}

const fn operation(
    name: &'static str,
    rig: Rig,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "block", against: None, rig, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "virtio-512-d1",
        Rig::VirtioDisk,
        512,
        "512 bytes from the same disk by virtio-mmio (event indices, indirect descriptors), one read at a time.",
        read::<512, 1>,
    ),
    operation(
        "virtio-512-d32",
        Rig::VirtioDisk,
        512,
        "512 bytes from the same disk by virtio-mmio, 32 reads in flight.",
        read::<512, 32>,
    ),
    operation(
        "virtio-4k-d1",
        Rig::VirtioDisk,
        4096,
        "4 KiB from the same disk by virtio-mmio, one read at a time.",
        read::<4096, 1>,
    ),
    operation(
        "virtio-4k-d32",
        Rig::VirtioDisk,
        4096,
        "4 KiB from the same disk by virtio-mmio, 32 reads in flight.",
        read::<4096, 32>,
    ),
    operation(
        "virtio-64k-d1",
        Rig::VirtioDisk,
        65_536,
        "64 KiB from the same disk by virtio-mmio, one read at a time.",
        read::<65_536, 1>,
    ),
    operation(
        "virtio-64k-d32",
        Rig::VirtioDisk,
        65_536,
        "64 KiB from the same disk by virtio-mmio, 32 reads in flight.",
        read::<65_536, 32>,
    ),
    operation(
        "virtio-4k-d1-asleep",
        Rig::VirtioDiskAsleep,
        4096,
        "The same, one at a time, while neither the guest nor the device polls: both sleep until they are told.",
        read_asleep::<4096, 1>,
    ),
    operation(
        "virtio-4k-d32-asleep",
        Rig::VirtioDiskAsleep,
        4096,
        "The same with 32 in flight while neither the guest nor the device polls.",
        read_asleep::<4096, 32>,
    ),
];
