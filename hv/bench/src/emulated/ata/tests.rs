//! The commands of the disk, and what a guest can do to it.

use super::*;
use hv_abi::GuestAddr;

const MEMORY: u64 = 1 << 20;

fn disk(sectors: usize) -> Ata {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..sectors * SECTOR).map(|n| (n / 7) as u8).collect();
    file.write_all_at(&bytes, 0).unwrap();
    let memory = Arc::new(GuestMemory::new(GuestAddr(1 << 40), MEMORY).unwrap());
    Ata::new(file, &memory).unwrap()
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

/// Reads sectors by the bus master to these regions: addresses, and sizes. Returns its status.
fn master(ata: &mut Ata, sector: u32, count: u8, regions: &[(u32, u16)]) -> u8 {
    let table = 0x8000;
    for (n, (address, size)) in regions.iter().enumerate() {
        let last = if n + 1 == regions.len() { 0x8000u16 } else { 0 };
        let at = GuestAddress(table + 8 * n as u64);
        ata.view
            .memory()
            .write_obj((u64::from(last) << 48) | u64::from(*size) << 32 | u64::from(*address), at)
            .unwrap();
    }
    ata.write(DMA_TABLE, 4, table);
    ata.write(DMA_COMMAND, 1, TO_MEMORY.into());
    ata.write(DMA_STATUS, 1, 0xff);
    order(ata, sector, count, 0xc8);
    ata.write(DMA_COMMAND, 1, (TO_MEMORY | START).into());
    ata.read(DMA_STATUS, 1) as u8
}

#[test]
fn the_disk_writes_to_memory_and_nowhere_else() {
    let mut ata = disk(8);
    assert_eq!(master(&mut ata, 1, 2, &[(0x1000, 600), (0x3000, 0)]), INTERRUPT);
    let mut bytes = [0; 2 * SECTOR];
    ata.view.memory().read_slice(&mut bytes[..600], GuestAddress(0x1000)).unwrap();
    ata.view.memory().read_slice(&mut bytes[600..], GuestAddress(0x3000)).unwrap();
    assert!((SECTOR..3 * SECTOR).zip(bytes).all(|(at, byte)| byte == (at / 7) as u8));
    let last = ata.view.memory().read_obj::<u32>(GuestAddress(0x3000 + 424)).unwrap();
    assert_eq!(last, 0, "no more than was asked for");
    // A region beyond the memory, too few regions, more sectors than there are, and no command.
    for (count, regions) in [(1, &[(MEMORY as u32, 0)][..]), (2, &[(0x1000, 512)][..])] {
        assert_eq!(master(&mut ata, 0, count, regions), DMA_FAILED | INTERRUPT);
    }
    assert_eq!(master(&mut ata, 7, 2, &[(0x1000, 0)]), 0);
    assert_eq!(ata.read(ERROR, 1) as u8, NOT_FOUND);
    ata.write(DMA_COMMAND, 1, 0);
    ata.write(DMA_COMMAND, 1, (TO_MEMORY | START).into());
    assert_eq!(ata.read(DMA_STATUS, 1), 0);
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
        let (offset, size) = (u64::from(seed >> 8 & 0x1f), 1 << (seed >> 12 & 3));
        match seed >> 16 & 1 {
            0 => drop(ata.read(offset, size)),
            _ => ata.write(offset, size, [0x20, 0x30, 0xec, 0xc8, 9, 0, 1][(seed >> 20) as usize % 7]),
        }
    }
}
