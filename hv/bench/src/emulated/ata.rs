//! An ATA disk: a sector comes through the data port, 16 bits at a time (PIO), or the disk writes it to memory (bus-master DMA).
//!
//! The commands that a driver of the simplest kind needs (ATA/ATAPI-6, sections
//! 8.15, 8.25, 8.34 and 8.62): IDENTIFY DEVICE, READ SECTORS, WRITE SECTORS and READ DMA with
//! 28-bit addresses, for a disk that is alone on its channel. A transfer by DMA is over when the register that starts it is written:
//! no guest can do it faster.
#![forbid(unsafe_code)]

use super::virtio::View;
use super::{EmulatedError, RegisterAccess};
use hv_core::memory::GuestMemory;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

const SECTOR: usize = 512;
/// Most sectors of a command: a count of 0 stands for it.
const MOST: usize = 256;
/// Most sectors that 28 bits can address.
const MAX_SECTORS: u64 = 1 << 28;

// Registers, as offsets from the first port.
const DATA: u64 = 0;
const ERROR: u64 = 1;
const COUNT: u64 = 2;
const ADDRESS: std::ops::RangeInclusive<u64> = 3..=5;
const DEVICE: u64 = 6;
const COMMAND: u64 = 7;
// Those of the bus master (Programming Interface for Bus Master IDE Controller 1.0).
const DMA_COMMAND: u64 = 16;
const DMA_STATUS: u64 = 18;
const DMA_TABLE: u64 = 20;

// Bits of the status register.
const READY: u8 = 0x40;
const SEEK_COMPLETE: u8 = 0x10;
const DATA_REQUEST: u8 = 0x08;
const FAILED: u8 = 0x01;

// Bits of the bus master's registers.
const START: u8 = 1;
const TO_MEMORY: u8 = 8;
const DMA_FAILED: u8 = 2;
const INTERRUPT: u8 = 4;

/// Most regions of a table that are looked at: a command moves 256 sectors at most.
const MOST_REGIONS: u64 = MOST as u64;

// Bits of the error register.
const ABORTED: u8 = 0x04;
const NOT_FOUND: u8 = 0x10;
const UNCORRECTABLE: u8 = 0x40;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    None,
    ToGuest,
    ToDisk,
}

pub(super) struct Ata {
    file: File,
    sectors: u64,
    error: u8,
    count: u8,
    /// Low, middle and high byte of the address.
    address: [u8; 3],
    /// Holds the address's highest four bits.
    device: u8,
    transfer: Transfer,
    /// Where a command writes, in bytes.
    target: u64,
    /// The sectors of the command, and how far the data port has come.
    buffer: Vec<u8>,
    at: usize,
    /// A command waits for the bus master.
    dma: bool,
    dma_command: u8,
    dma_status: u8,
    /// Where the table of regions is.
    dma_table: u32,
    view: View,
}

impl Ata {
    pub(super) fn new(file: File, memory: &Arc<GuestMemory>) -> Result<Self, EmulatedError> {
        let sectors = (file.metadata()?.len() / SECTOR as u64).min(MAX_SECTORS);
        Ok(Ata {
            file,
            sectors,
            error: 0,
            count: 0,
            address: [0; 3],
            device: 0,
            transfer: Transfer::None,
            target: 0,
            buffer: Vec::with_capacity(MOST * SECTOR),
            at: 0,
            dma: false,
            dma_command: 0,
            dma_status: 0,
            dma_table: 0,
            view: View::new(memory)?,
        })
    }

    fn status(&self) -> u8 {
        let request = if self.transfer == Transfer::None { 0 } else { DATA_REQUEST };
        let failed = if self.error == 0 { 0 } else { FAILED };
        READY | SEEK_COMPLETE | request | failed
    }

    fn fail(&mut self, error: u8) {
        self.error = error;
        self.transfer = Transfer::None;
    }

    /// Where the command's sectors begin and how many they are, if the disk has them.
    fn span(&self) -> Option<(u64, usize)> {
        let [low, middle, high] = self.address;
        let first = u64::from(u32::from_le_bytes([low, middle, high, self.device & 0xf]));
        let count = if self.count == 0 { MOST } else { self.count.into() };
        (first + count as u64 <= self.sectors).then_some((first * SECTOR as u64, count * SECTOR))
    }

    fn begin(&mut self, transfer: Transfer, bytes: usize) {
        self.buffer.clear();
        self.buffer.resize(bytes, 0);
        (self.transfer, self.at) = (transfer, 0);
    }

    fn command(&mut self, command: u8) {
        (self.error, self.transfer, self.dma) = (0, Transfer::None, false);
        match command {
            0xec => {
                self.begin(Transfer::ToGuest, SECTOR);
                identify(self.sectors as u32, &mut self.buffer);
            }
            0x20 => match self.span() {
                Some((offset, bytes)) => {
                    self.begin(Transfer::ToGuest, bytes);
                    if self.file.read_exact_at(&mut self.buffer, offset).is_err() {
                        self.fail(UNCORRECTABLE);
                    }
                }
                None => self.fail(NOT_FOUND),
            },
            0x30 => match self.span() {
                Some((offset, bytes)) => {
                    self.target = offset;
                    self.begin(Transfer::ToDisk, bytes);
                }
                None => self.fail(NOT_FOUND),
            },
            // The sectors move when the bus master starts.
            0xc8 if self.span().is_some() => self.dma = true,
            0xc8 => self.fail(NOT_FOUND),
            _ => self.fail(ABORTED),
        }
    }

    /// Moves the sectors of a command to the regions of the table.
    fn master(&mut self) {
        if !std::mem::take(&mut self.dma) || self.dma_command & TO_MEMORY == 0 {
            return;
        }
        let Some((mut offset, mut left)) = self.span() else { return self.fail(NOT_FOUND) };
        self.buffer.resize(MOST * SECTOR, 0);
        for n in 0..MOST_REGIONS {
            let mut region = [0; 8];
            let at = GuestAddress(u64::from(self.dma_table) + 8 * n);
            if self.view.memory().read_slice(&mut region, at).is_err() {
                break;
            }
            let [a, b, c, d, low, high, _, end] = region;
            let place = GuestAddress(u32::from_le_bytes([a, b, c, d]).into());
            let size = match u16::from_le_bytes([low, high]) {
                0 => 1 << 16,
                size => size.into(),
            };
            let bytes = &mut self.buffer[..size.min(left)];
            if self.file.read_exact_at(bytes, offset).is_err() {
                self.fail(UNCORRECTABLE);
                break;
            }
            if self.view.memory().write_slice(bytes, place).is_err() {
                break;
            }
            (offset, left) = (offset + bytes.len() as u64, left - bytes.len());
            if left == 0 {
                self.dma_status |= INTERRUPT;
                return;
            }
            if end & 0x80 != 0 {
                break;
            }
        }
        self.dma_status |= DMA_FAILED | INTERRUPT;
    }

    /// The next bytes of the transfer; when they were the last, it is over.
    fn step(&mut self, transfer: Transfer, size: u8) -> Option<&mut [u8]> {
        if self.transfer != transfer {
            return None;
        }
        let start = self.at;
        self.at = (start + usize::from(size)).min(self.buffer.len());
        Some(&mut self.buffer[start..self.at])
    }

    fn end_of_buffer(&self) -> bool {
        self.at == self.buffer.len()
    }
}

/// The data of IDENTIFY DEVICE: 256 words, of which drivers look at these.
fn identify(sectors: u32, data: &mut [u8]) {
    let mut put =
        |word: usize, value: u16| data[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
    // Words 27 to 46 are the model, two characters a word, the first one in the high byte.
    for (n, pair) in format!("{:<40}", "hv bench disk").as_bytes().chunks_exact(2).enumerate() {
        put(27 + n, u16::from_be_bytes([pair[0], pair[1]]));
    }
    const LBA: u16 = 1 << 9;
    put(49, LBA);
    put(60, sectors as u16);
    put(61, (sectors >> 16) as u16);
}

impl RegisterAccess for Ata {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            DATA => {
                let mut bytes = [0; 8];
                if let Some(data) = self.step(Transfer::ToGuest, size) {
                    bytes[..data.len()].copy_from_slice(data);
                    if self.end_of_buffer() {
                        self.transfer = Transfer::None;
                    }
                }
                u64::from_le_bytes(bytes)
            }
            ERROR => self.error.into(),
            COUNT => self.count.into(),
            offset if ADDRESS.contains(&offset) => self.address[(offset - ADDRESS.start()) as usize].into(),
            DEVICE => self.device.into(),
            DMA_COMMAND => self.dma_command.into(),
            DMA_STATUS => self.dma_status.into(),
            DMA_TABLE => self.dma_table.into(),
            _ => self.status().into(),
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match offset {
            DATA => {
                let Some(data) = self.step(Transfer::ToDisk, size) else { return };
                data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
                if self.end_of_buffer() {
                    self.transfer = Transfer::None;
                    if self.file.write_all_at(&self.buffer, self.target).is_err() {
                        self.fail(UNCORRECTABLE);
                    }
                }
            }
            COUNT => self.count = value as u8,
            offset if ADDRESS.contains(&offset) => {
                self.address[(offset - ADDRESS.start()) as usize] = value as u8;
            }
            DEVICE => self.device = value as u8,
            COMMAND => self.command(value as u8),
            DMA_COMMAND => {
                let starts = value as u8 & !self.dma_command & START != 0;
                self.dma_command = value as u8;
                if starts {
                    self.master();
                }
            }
            // What is written as 1 is cleared.
            DMA_STATUS => self.dma_status &= !(value as u8 & (DMA_FAILED | INTERRUPT)),
            DMA_TABLE if size == 4 => self.dma_table = value as u32,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
