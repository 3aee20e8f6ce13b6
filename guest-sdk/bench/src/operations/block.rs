//! Reading a disk.

use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use hv_guest::abi::Errno;
use hv_guest::{block, block_on, event};

/// Reads `SIZE` bytes at a time, `DEPTH` reads in flight.
fn read<const SIZE: usize, const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    let disk = block::disk(0).ok_or("the guest was given no disk")?;
    let places = disk.size() / SIZE as u64;
    let sectors = (SIZE / disk.sector_size()) as u64;
    let mut memory = vec![1u8; SIZE * DEPTH];
    meter
        .phases(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let readers = memory.chunks_exact_mut(SIZE).map(|buffer| {
                let (next, recorder) = (&next, &recorder);
                async move {
                    while next.get() < count {
                        let place = scatter(next.replace(next.get() + 1)) % places;
                        let start = tsc();
                        disk.read(place * sectors, buffer).await?;
                        recorder.borrow_mut().record(tsc() - start);
                    }
                    Ok(())
                }
            });
            block_on(all(readers.collect()))
        })
        .map_err(|errno: Errno| failed("reading the disk", errno))
}

/// The same while neither the guest nor the back end polls.
fn read_asleep<const SIZE: usize, const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    event::stop_polling();
    read::<SIZE, DEPTH>(meter)
}

/// A permutation of numbers that looks random (the finaliser of MurmurHash3).
pub(super) fn scatter(n: u64) -> u64 {
    let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let n = (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    n ^ n >> 33
}

/// Drives all futures until all have ended; the last error, if there was one.
pub(super) async fn all<E, F: Future<Output = Result<(), E>>>(futures: Vec<F>) -> Result<(), E> {
    let mut futures: Vec<Option<Pin<Box<F>>>> = futures.into_iter().map(|f| Some(Box::pin(f))).collect();
    let mut result = Ok(());
    poll_fn(|context| {
        for slot in &mut futures {
            if let Some(future) = slot
                && let Poll::Ready(outcome) = future.as_mut().poll(context)
            {
                *slot = None;
                if outcome.is_err() {
                    result = outcome;
                }
            }
        }
        if futures.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    result
}

const fn operation(
    name: &'static str,
    rig: Rig,
    against: &'static str,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let against = Some(against);
    Operation { name, group: "block", against, rig, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "block-512-d1",
        Rig::Disk,
        "virtio-512-d1",
        512,
        "512 bytes from a paravirtual disk in the page cache, one read at a time.",
        read::<512, 1>,
    ),
    operation(
        "block-512-d32",
        Rig::Disk,
        "virtio-512-d32",
        512,
        "512 bytes from a paravirtual disk in the page cache, 32 reads in flight.",
        read::<512, 32>,
    ),
    operation(
        "block-4k-d1",
        Rig::Disk,
        "virtio-4k-d1",
        4096,
        "4 KiB from a paravirtual disk in the page cache, one read at a time.",
        read::<4096, 1>,
    ),
    operation(
        "block-4k-d32",
        Rig::Disk,
        "virtio-4k-d32",
        4096,
        "4 KiB from a paravirtual disk in the page cache, 32 reads in flight.",
        read::<4096, 32>,
    ),
    operation(
        "block-64k-d1",
        Rig::Disk,
        "virtio-64k-d1",
        65_536,
        "64 KiB from a paravirtual disk in the page cache, one read at a time.",
        read::<65_536, 1>,
    ),
    operation(
        "block-64k-d32",
        Rig::Disk,
        "virtio-64k-d32",
        65_536,
        "64 KiB from a paravirtual disk in the page cache, 32 reads in flight.",
        read::<65_536, 32>,
    ),
    operation(
        "block-4k-d1-asleep",
        Rig::DiskAsleep,
        "virtio-4k-d1-asleep",
        4096,
        "4 KiB from a paravirtual disk, one at a time, while neither the guest nor the back end polls.",
        read_asleep::<4096, 1>,
    ),
    operation(
        "block-4k-d32-asleep",
        Rig::DiskAsleep,
        "virtio-4k-d32-asleep",
        4096,
        "4 KiB from a paravirtual disk, 32 in flight, while neither the guest nor the back end polls.",
        read_asleep::<4096, 32>,
    ),
];
