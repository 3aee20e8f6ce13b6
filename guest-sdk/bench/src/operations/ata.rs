//! Reading an emulated ATA disk.

use super::block::scatter;
use crate::hardware::ata::AtaDisk;
use crate::meter::{Meter, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;

const SECTOR: u64 = 512;

/// Reads `SIZE` bytes at a time.
fn read<const SIZE: usize>(
    meter: &mut Meter,
    read: fn(&AtaDisk, u64, &mut [u8]) -> Result<(), String>,
) -> Result<(), String> {
    let disk = AtaDisk::open()?;
    let sectors = SIZE as u64 / SECTOR;
    let places = disk.sectors() / sectors;
    let mut buffer = vec![1u8; SIZE];
    meter.phases(|count, recorder| {
        for n in 0..count {
            let start = tsc();
            read(&disk, scatter(n) % places * sectors, &mut buffer)?;
            recorder.record(tsc() - start);
        }
        Ok(())
    })
}

const fn operation(
    name: &'static str,
    against: &'static str,
    bytes: u64,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "block", against: Some(against), rig: Rig::Ata, bytes, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "ata-512",
        "block-512-d1",
        512,
        "512 bytes from the same disk by ATA PIO, as Linux does it: one string instruction for a sector.",
        |meter| read::<512>(meter, AtaDisk::read),
    ),
    operation(
        "ata-4k",
        "block-4k-d1",
        4096,
        "4 KiB from the same disk by ATA PIO: eight string instructions.",
        |meter| read::<4096>(meter, AtaDisk::read),
    ),
    operation(
        "ata-dma-4k",
        "block-4k-d1",
        4096,
        "4 KiB from the same disk by bus-master DMA.",
        |meter| read::<4096>(meter, AtaDisk::read_dma),
    ),
    operation(
        "ata-dma-64k",
        "block-64k-d1",
        65_536,
        "64 KiB from the same disk by bus-master DMA.",
        |meter| read::<65_536>(meter, AtaDisk::read_dma),
    ),
    operation(
        "ata-worst-512",
        "block-512-d1",
        512,
        "The worst case: 512 bytes by 256 single reads of a port.",
        |meter| read::<512>(meter, AtaDisk::read_singly),
    ),
];
