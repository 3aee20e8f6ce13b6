//! ⚠ An ATA disk: by programmed I/O, a sector by one string instruction as Linux has it or by single ones, and by bus-master DMA.
#![allow(unsafe_code, reason = "memory that a device writes")]

use super::memory::physical;
use super::port;
use alloc::format;
use alloc::string::String;
use core::ptr::write_volatile;

const SECTOR: usize = 512;

const DATA: u16 = 0x1f0;
const ERROR: u16 = 0x1f1;
const COUNT: u16 = 0x1f2;
const ADDRESS: u16 = 0x1f3;
const DEVICE: u16 = 0x1f6;
const COMMAND: u16 = 0x1f7;

const BUS_MASTER_COMMAND: u16 = 0x200;
const BUS_MASTER_STATUS: u16 = 0x202;
const BUS_MASTER_TABLE: u16 = 0x204;

const READ_SECTORS: u8 = 0x20;
const READ_DMA: u8 = 0xc8;
const IDENTIFY: u8 = 0xec;

const BUSY: u8 = 0x80;
const DATA_REQUEST: u8 = 0x08;
const FAILED: u8 = 0x01;

/// The first disk.
#[derive(Debug)]
pub struct AtaDisk {
    sectors: u64,
}

impl AtaDisk {
    /// Asks the disk what it is.
    pub fn open() -> Result<AtaDisk, String> {
        command(0, 0, IDENTIFY);
        let mut data = [0; SECTOR];
        receive(&mut data)?;
        let word = |n: usize| u64::from(u16::from_le_bytes([data[2 * n], data[2 * n + 1]]));
        Ok(AtaDisk { sectors: word(60) | word(61) << 16 })
    }

    /// How many sectors of 512 bytes it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Reads up to 256 whole sectors, each by one instruction.
    pub fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), String> {
        // 0 stands for 256.
        command(sector as u32, (buffer.len() / SECTOR) as u8, READ_SECTORS);
        buffer.chunks_exact_mut(SECTOR).try_for_each(receive)
    }

    /// Reads up to 256 whole sectors, each pair of bytes by an instruction of its own: as a driver does that nobody has made fast.
    pub fn read_singly(&self, sector: u64, buffer: &mut [u8]) -> Result<(), String> {
        command(sector as u32, (buffer.len() / SECTOR) as u8, READ_SECTORS);
        buffer.chunks_exact_mut(SECTOR).try_for_each(|sector| {
            ready()?;
            for pair in sector.chunks_exact_mut(2) {
                pair.copy_from_slice(&port::read_u16(DATA).to_le_bytes());
            }
            Ok(())
        })
    }

    /// Reads up to 64 KiB of whole sectors by the disk's own writes to memory (Programming Interface for Bus Master IDE Controller 1.0).
    pub fn read_dma(&self, sector: u64, buffer: &mut [u8]) -> Result<(), String> {
        const START: u8 = 1;
        const TO_MEMORY: u8 = 8;
        const FAILED_OR_DONE: u8 = 6;
        // A table of one region: where the disk writes, how much (0 stands for 64 KiB), and that it is the last.
        const LAST: u32 = 1 << 31;
        let place = physical(buffer.as_mut_ptr() as usize) as u32;
        let mut table = [0u32; 2];
        // SAFETY: it is there; volatile, since the device reads it.
        unsafe { write_volatile(&mut table, [place, buffer.len() as u32 & 0xffff | LAST]) };
        port::write_u32(BUS_MASTER_TABLE, physical(table.as_ptr() as usize) as u32);
        port::write_u8(BUS_MASTER_COMMAND, TO_MEMORY);
        port::write_u8(BUS_MASTER_STATUS, FAILED_OR_DONE);
        command(sector as u32, (buffer.len() / SECTOR) as u8, READ_DMA);
        port::write_u8(BUS_MASTER_COMMAND, TO_MEMORY | START);
        let status = loop {
            let status = port::read_u8(BUS_MASTER_STATUS);
            if status & FAILED_OR_DONE != 0 {
                break status;
            }
        };
        port::write_u8(BUS_MASTER_COMMAND, TO_MEMORY);
        let own = port::read_u8(COMMAND);
        if status & 2 != 0 || own & FAILED != 0 {
            return Err(format!("ATA: status {own:#x} and {status:#x}, error {:#x}", port::read_u8(ERROR)));
        }
        // The device has written it behind the compiler's back.
        core::hint::black_box(buffer);
        Ok(())
    }
}

fn command(sector: u32, count: u8, command: u8) {
    const ADDRESS_BY_SECTOR: u8 = 0xe0;
    let [low, middle, high, highest] = sector.to_le_bytes();
    port::write_u8(DEVICE, ADDRESS_BY_SECTOR | highest & 0xf);
    port::write_u8(COUNT, count);
    for (n, byte) in (0..).zip([low, middle, high]) {
        port::write_u8(ADDRESS + n, byte);
    }
    port::write_u8(COMMAND, command);
}

/// Takes a sector from the data port.
fn receive(sector: &mut [u8]) -> Result<(), String> {
    ready()?;
    port::read_string_u16(DATA, sector);
    Ok(())
}

/// Waits until the disk has a sector.
fn ready() -> Result<(), String> {
    let status = loop {
        let status = port::read_u8(COMMAND);
        if status & BUSY == 0 {
            break status;
        }
    };
    if status & (FAILED | DATA_REQUEST) != DATA_REQUEST {
        return Err(format!("ATA: status {status:#x}, error {:#x}", port::read_u8(ERROR)));
    }
    Ok(())
}
