//! The devices that `hv bench` compares with: registers, and virtio queues in the guest's memory.

use crate::net::Mirror;
use crate::{Input, Seed};
use hv::device::block::{Disk, DiskSpec, EngineKind};
use hv::device::stdio::Buffer;
use hv::domain::Bus;
use hv::event::Hub;
use hv::memory::GuestMemory;
use hv::platform::{BusAccess, Space};
use hv_abi::GuestAddr;
use hv_bench::emulated::{Emulated, Hardware};
use std::sync::{Arc, LazyLock};
use std::time::Instant;
use tempfile::NamedTempFile;

const BLOCK: u64 = 0xd000_0000;
const NET: u64 = 0xd000_1000;
const CONSOLE: u64 = 0xd000_2000;
const MEMORY: u64 = 64 << 10;

static DISK: LazyLock<NamedTempFile> = LazyLock::new(|| {
    let file = NamedTempFile::new().expect("a file");
    file.as_file().set_len(64 << 10).expect("a file of this size");
    file
});

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let memory = GuestMemory::new(GuestAddr(1 << 40), MEMORY).expect("there is memory");
    let memory = Arc::new(memory);
    let hub = Hub::new(memory.clone(), MEMORY - 4096);
    let disk = Disk::open(&DiskSpec::new(DISK.path())).expect("a disk");
    let devices = vec![
        Emulated::VirtioBlock(disk, EngineKind::Threads),
        Emulated::VirtioNet(Box::<Mirror>::default()),
        Emulated::Timer,
        Emulated::Hpet,
        Emulated::VirtioConsole(Box::new(Buffer::new(100))),
        Emulated::Uart(Box::new(Buffer::new(100))),
        Emulated::Ata(DISK.reopen().expect("the file")),
    ];
    let mut hardware = Hardware::new(devices);
    let mut sources = hardware.connect(&memory, &hub).expect("hardware").sources;
    while input.more() {
        let which = input.byte();
        let value = |input: &mut Input<'_>| (which & 0x40 == 0).then(|| input.number());
        let size = 1 << (which >> 4 & 3);
        let access = match which % 8 {
            0 => {
                let address = [BLOCK, NET, CONSOLE][usize::from(which >> 5) % 3] + u64::from(input.byte());
                BusAccess { space: Space::Memory, address, size: 4, value: value(&mut input) }
            }
            1 => BusAccess {
                space: Space::Port,
                address: 0x1f0 + u64::from(which >> 7) * 7 + u64::from(which >> 3 & 1) * 16,
                size: size.min(4),
                value: value(&mut input),
            },
            2 => {
                let address = [0x1f0, 0x3f8][usize::from(which >> 7)] + u64::from(input.byte() % 8);
                BusAccess { space: Space::Port, address, size: 1, value: value(&mut input) }
            }
            3 => BusAccess {
                space: Space::Port,
                address: input.half().into(),
                size: size.min(4),
                value: value(&mut input),
            },
            4 | 5 => {
                let at = u64::from(input.half());
                let bytes = input.bytes();
                let room = MEMORY.saturating_sub(at).min(bytes.len() as u64);
                memory.host_write(at, &bytes[..room as usize]);
                continue;
            }
            _ => {
                for source in &mut sources {
                    source.poll(Instant::now());
                }
                continue;
            }
        };
        let answer = hardware.access(&access);
        assert_eq!(answer.is_some(), access.value.is_none());
    }
}

/// Sets a device going whose queues are at these places.
fn start(mut seed: Seed, device: u8, queues: u32) -> Seed {
    let write =
        |seed: Seed, register: u8, value: u32| seed.byte(device << 7).byte(register).number(value.into());
    seed = write(write(seed, 0x70, 0), 0x70, 0xb);
    for queue in 0..queues {
        seed = write(write(seed, 0x30, queue), 0x38, 8);
        for (n, register) in [0x80, 0x90, 0xa0].into_iter().enumerate() {
            seed = write(seed, register, 0x1000 * (1 + 3 * queue + n as u32));
        }
        seed = write(seed, 0x44, 1);
    }
    write(seed, 0x70, 0xf)
}

/// A descriptor of a virtio queue (virtio 1.2, section 2.7.5).
fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    Seed::default().long(address).word(len).half(flags).half(next).done()
}

/// A read of the virtio disk, a frame through the virtio net device, a sector of the ATA disk, a line by UART.
pub fn seeds() -> Vec<Vec<u8>> {
    let chain =
        [descriptor(0x8000, 16, 1, 1), descriptor(0x9000, 512, 3, 2), descriptor(0xa000, 1, 2, 0)].concat();
    let block = start(Seed::default(), 0, 1).byte(4).half(0x1000).bytes(&chain);
    let block = block.byte(4).half(0x2000).bytes(&[0, 0, 1, 0, 0, 0]);
    let block = block.byte(0).byte(0x50).number(0).byte(6).byte(6).byte(0x40).byte(0x60);
    let frame = descriptor(0x8000, 60, 0, 0);
    let net = start(Seed::default(), 1, 2).byte(4).half(0x1000).bytes(&descriptor(0x9000, 4096, 2, 0));
    let net = net.byte(4).half(0x2000).bytes(&[0, 0, 1, 0, 0, 0]);
    let net = net
        .byte(4)
        .half(0x4000)
        .bytes(&frame)
        .byte(4)
        .half(0x5000)
        .bytes(&[0, 0, 1, 0, 0, 0])
        .byte(6)
        .byte(6);
    let mut ata = Seed::default();
    for (register, value) in [(6, 0xe0), (2, 1), (3, 0), (4, 0), (5, 0), (7, 0x20)] {
        ata = ata.byte(2).byte(register).number(value);
    }
    let ata = ata.byte(0x42).byte(7).byte(0x61).byte(0x61).byte(0x51);
    let uart =
        b"hello\n".iter().fold(Seed::default(), |seed, &byte| seed.byte(0x82).byte(0).number(byte.into()));
    vec![block.done(), net.done(), ata.done(), uart.byte(0x43).half(0x608).done()]
}
