//! An ATA disk in PIO mode: each sector is 256 reads of the data port.
#![forbid(unsafe_code)]

use super::port;
use alloc::format;
use alloc::string::String;

const SECTOR: usize = 512;

const DATA: u16 = 0x1f0;
const ERROR: u16 = 0x1f1;
const COUNT: u16 = 0x1f2;
const ADDRESS: u16 = 0x1f3;
const DEVICE: u16 = 0x1f6;
const COMMAND: u16 = 0x1f7;

const READ_SECTORS: u8 = 0x20;
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

    /// Reads up to 256 whole sectors.
    pub fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), String> {
        // 0 stands for 256.
        command(sector as u32, (buffer.len() / SECTOR) as u8, READ_SECTORS);
        buffer.chunks_exact_mut(SECTOR).try_for_each(receive)
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
    let status = loop {
        let status = port::read_u8(COMMAND);
        if status & BUSY == 0 {
            break status;
        }
    };
    if status & (FAILED | DATA_REQUEST) != DATA_REQUEST {
        return Err(format!("ATA: status {status:#x}, error {:#x}", port::read_u8(ERROR)));
    }
    for pair in sector.chunks_exact_mut(2) {
        pair.copy_from_slice(&port::read_u16(DATA).to_le_bytes());
    }
    Ok(())
}
