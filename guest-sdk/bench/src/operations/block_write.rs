//! Writing to a disk, and reads that come at a fixed rate.

use super::block::{all, scatter};
use crate::meter::{Meter, failed, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use core::cell::{Cell, RefCell};
use hv_guest::abi::Errno;
use hv_guest::block::{self, Disk};
use hv_guest::embassy_time::{Duration, Instant, Timer};
use hv_guest::block_on;

const SIZE: usize = 4096;

/// Does one operation after another at a random place of the disk, with `DEPTH` of them at a time.
fn at_places<const DEPTH: usize>(
    meter: &mut Meter,
    operate: impl AsyncFn(&Disk, u64, u64, &mut [u8]) -> Result<(), Errno>,
) -> Result<(), String> {
    let disk = block::disk(0).ok_or("the guest was given no disk")?;
    let (places, sectors) = (disk.size() / SIZE as u64, (SIZE / disk.sector_size()) as u64);
    let mut memory = vec![1u8; SIZE * DEPTH];
    meter
        .phases(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let workers = memory.chunks_exact_mut(SIZE).map(|buffer| {
                let (next, recorder, operate, disk) = (&next, &recorder, &operate, &disk);
                async move {
                    while next.get() < count {
                        let n = next.replace(next.get() + 1);
                        let start = tsc();
                        operate(disk, n, scatter(n) % places * sectors, buffer).await?;
                        recorder.borrow_mut().record(tsc() - start);
                    }
                    Ok(())
                }
            });
            block_on(all(workers.collect()))
        })
        .map_err(|errno: Errno| failed("the disk", errno))
}

fn write<const DEPTH: usize>(meter: &mut Meter) -> Result<(), String> {
    at_places::<DEPTH>(meter, async |disk: &Disk, _, sector, buffer: &mut [u8]| disk.write(sector, buffer).await)
}

fn write_and_flush(meter: &mut Meter) -> Result<(), String> {
    at_places::<1>(meter, async |disk: &Disk, _, sector, buffer: &mut [u8]| {
        disk.write(sector, buffer).await?;
        disk.flush().await
    })
}

/// Seven reads for three writes.
fn mixed(meter: &mut Meter) -> Result<(), String> {
    at_places::<32>(meter, async |disk: &Disk, n, sector, buffer: &mut [u8]| match scatter(n) >> 40 & 1023 {
        0..=306 => disk.write(sector, buffer).await,
        _ => disk.read(sector, buffer).await,
    })
}

fn read(meter: &mut Meter) -> Result<(), String> {
    at_places::<1>(meter, async |disk: &Disk, _, sector, buffer: &mut [u8]| disk.read(sector, buffer).await)
}

/// From one read that is due to the next.
const PERIOD: Duration = Duration::from_micros(200);
/// Most reads at a time. Those beyond are late, and their lateness counts.
const AT_A_TIME: usize = 32;

/// Reads at a fixed rate, whether those before are done or not. What each takes counts from when it was due: a stall is seen by
/// all that should have begun meanwhile.
fn at_a_rate(meter: &mut Meter) -> Result<(), String> {
    let disk = block::disk(0).ok_or("the guest was given no disk")?;
    let (places, sectors) = (disk.size() / SIZE as u64, (SIZE / disk.sector_size()) as u64);
    let mut memory = vec![1u8; SIZE * AT_A_TIME];
    meter
        .paced(|count, recorder| {
            let (next, recorder) = (Cell::new(0), RefCell::new(recorder));
            let (first, begin) = (Instant::now(), tsc());
            let readers = memory.chunks_exact_mut(SIZE).map(|buffer| {
                let (next, recorder, disk) = (&next, &recorder, &disk);
                async move {
                    while next.get() < count {
                        let n = next.replace(next.get() + 1);
                        let due = first + PERIOD * (n as u32 + 1);
                        Timer::at(due).await;
                        disk.read(scatter(n) % places * sectors, buffer).await?;
                        let (now, end) = (Instant::now(), tsc());
                        let took = u128::from((now - due).as_ticks()) * u128::from(end - begin);
                        recorder.borrow_mut().record((took / u128::from((now - first).as_ticks())) as u64);
                    }
                    Ok(())
                }
            });
            block_on(all(readers.collect()))
        })
        .map_err(|errno: Errno| failed("the disk", errno))
}

const fn operation(
    name: &'static str,
    against: &'static str,
    rig: Rig,
    bytes: usize,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    let (against, bytes) = (Some(against), bytes as u64);
    Operation { name, group: "block", against, rig, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "block-4k-write-d1",
        "block-4k-d1",
        Rig::WritableDisk,
        SIZE,
        "4 KiB to a paravirtual disk in the page cache, one write at a time.",
        write::<1>,
    ),
    operation(
        "block-4k-write-d32",
        "block-4k-d32",
        Rig::WritableDisk,
        SIZE,
        "4 KiB to a paravirtual disk in the page cache, 32 writes in flight.",
        write::<32>,
    ),
    operation(
        "block-4k-mixed-d32",
        "block-4k-d32",
        Rig::WritableDisk,
        SIZE,
        "Seven reads for three writes of 4 KiB, 32 in flight.",
        mixed,
    ),
    operation(
        "block-4k-flush",
        "block-4k-write-d1",
        Rig::WritableDisk,
        SIZE,
        "4 KiB to a paravirtual disk, and a flush: until the host's disk has it.",
        write_and_flush,
    ),
    operation(
        "block-4k-direct",
        "block-4k-d1",
        Rig::DirectDisk,
        SIZE,
        "4 KiB from a paravirtual disk past the host's page cache (O_DIRECT), one read at a time.",
        read,
    ),
    operation(
        "block-4k-rate",
        "block-4k-d1-asleep",
        Rig::Disk,
        // Its latency is what it is about: most of the time it waits.
        0,
        "4 KiB from a paravirtual disk 5,000 times a second, each from when it is due (open loop).",
        at_a_rate,
    ),
];
