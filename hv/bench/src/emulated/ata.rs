//! An ATA disk in PIO mode: a sector comes through the data port, 16 bits at a time.
//!
//! The commands that a driver of the simplest kind needs (ATA/ATAPI-6, sections
//! 8.15, 8.34 and 8.62): IDENTIFY DEVICE, READ SECTORS and WRITE SECTORS with
//! 28-bit addresses, for a disk that is alone on its channel.
#![forbid(unsafe_code)]

use super::RegisterAccess;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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

// Bits of the status register.
const READY: u8 = 0x40;
const SEEK_COMPLETE: u8 = 0x10;
const DATA_REQUEST: u8 = 0x08;
const FAILED: u8 = 0x01;

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
}

impl Ata {
    pub(super) fn new(file: File) -> io::Result<Self> {
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
        (self.error, self.transfer) = (0, Transfer::None);
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
            _ => self.fail(ABORTED),
        }
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
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(sectors: usize) -> Ata {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..sectors * SECTOR).map(|n| (n / 7) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        Ata::new(file).unwrap()
    }

    fn order(ata: &mut Ata, sector: u32, count: u8, command: u8) -> u8 {
        let [low, middle, high, highest] = sector.to_le_bytes();
        for (register, value) in [(2, count), (3, low), (4, middle), (5, high), (6, 0xe0 | highest)] {
            ata.write(register, 1, value.into());
        }
        ata.write(COMMAND, 1, command.into());
        ata.read(COMMAND, 1) as u8
    }

    #[test]
    fn sectors_come_and_go_through_the_data_port() {
        let mut ata = disk(8);
        assert_eq!(order(&mut ata, 3, 2, 0x20), READY | SEEK_COMPLETE | DATA_REQUEST);
        for word in 0..2 * SECTOR / 2 {
            let at = 3 * SECTOR + 2 * word;
            let expected = u16::from_le_bytes([(at / 7) as u8, ((at + 1) / 7) as u8]);
            assert_eq!(ata.read(DATA, 2), u64::from(expected));
        }
        assert_eq!(ata.read(COMMAND, 1) as u8, READY | SEEK_COMPLETE);
        assert_eq!(ata.read(DATA, 2), 0, "nothing is left");
        order(&mut ata, 7, 1, 0x30);
        (0..256).for_each(|word| ata.write(DATA, 2, word));
        assert_eq!(ata.read(COMMAND, 1) as u8, READY | SEEK_COMPLETE);
        let mut written = [0; SECTOR];
        ata.file.read_exact_at(&mut written, 7 * SECTOR as u64).unwrap();
        assert_eq!(written[2 * 200..2 * 200 + 2], [200, 0]);
    }

    #[test]
    fn what_the_disk_does_not_have_is_an_error() {
        let mut ata = disk(8);
        for (sector, count, command) in [(7, 2, 0x20), (8, 1, 0x30), (0, 0, 0x20), (u32::MAX, 1, 0x20)] {
            assert_eq!(order(&mut ata, sector, count, command) & (FAILED | DATA_REQUEST), FAILED);
            assert_eq!(ata.read(ERROR, 1) as u8, NOT_FOUND);
        }
        assert_eq!(order(&mut ata, 0, 1, 0xff) & FAILED, FAILED);
        assert_eq!(ata.read(ERROR, 1) as u8, ABORTED);
    }

    #[test]
    fn a_disk_says_how_large_it_is() {
        let mut ata = disk(8);
        order(&mut ata, 0, 0, 0xec);
        let words: Vec<u64> = (0..256).map(|_| ata.read(DATA, 2)).collect();
        assert_eq!((words[60], words[61]), (8, 0));
        assert_eq!(words[27], u64::from(u16::from_be_bytes(*b"hv")));
    }

    #[test]
    fn no_order_of_accesses_is_a_panic() {
        let mut ata = disk(2);
        let mut seed = 1u32;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (offset, size) = (u64::from(seed >> 8 & 7), 1 << (seed >> 12 & 3));
            match seed >> 16 & 1 {
                0 => drop(ata.read(offset, size)),
                _ => ata.write(offset, size, [0x20, 0x30, 0xec, 0, 1][(seed >> 20) as usize % 5]),
            }
        }
    }
}
