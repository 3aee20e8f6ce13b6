//! What a guest can do to emulated devices, whatever it writes: nothing worse than to stop them.

use super::*;
use hv_abi::GuestAddr;
use hv_core::device::block::DiskSpec;
use hv_core::device::net::user::{UserConfig, UserNet};
use hv_core::reactor::Source;
use proptest::prelude::*;
use std::time::Instant;

const BLOCK: u64 = 0xd000_0000;
const NET: u64 = 0xd000_1000;
const CONSOLE: u64 = 0xd000_2000;
const MEMORY: u64 = 1 << 20;

/// A guest's devices, what the I/O thread drives of them, and its memory.
struct Machine {
    hardware: Hardware,
    sources: Vec<Box<dyn Source>>,
}

fn machine() -> (Machine, Arc<GuestMemory>, tempfile::NamedTempFile) {
    let memory = Arc::new(GuestMemory::new(GuestAddr(1 << 40), MEMORY).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 10).unwrap();
    let disk = Disk::open(&DiskSpec::new(file.path())).unwrap();
    let network = UserNet::new(UserConfig::new([2, 0, 0, 0, 0, 1])).unwrap();
    let devices = vec![
        Emulated::VirtioBlock(disk, EngineKind::Threads),
        Emulated::VirtioNet(Box::new(network)),
        Emulated::Timer,
        Emulated::Hpet,
        Emulated::VirtioConsole(Box::new(hv_core::device::stdio::Buffer::new(100))),
        Emulated::Uart(Box::new(hv_core::device::stdio::Buffer::new(100))),
        Emulated::Ata(file.reopen().unwrap()),
    ];
    let hub = Hub::new(memory.clone(), MEMORY - 4096);
    let mut hardware = Hardware::new(devices);
    let sources = hardware.connect(&memory, &hub).unwrap().sources;
    (Machine { hardware, sources }, memory, file)
}

fn write(hardware: &mut Hardware, address: u64, value: u32) {
    let access = BusAccess { space: Space::Memory, address, size: 4, value: Some(value.into()) };
    assert_eq!(hardware.access(&access), None);
}

fn read(hardware: &mut Hardware, address: u64) -> u64 {
    hardware.access(&BusAccess { space: Space::Memory, address, size: 4, value: None }).unwrap()
}

/// Sets a device going whose queues are at these places.
fn start(hardware: &mut Hardware, device: u64, queues: u32, size: u32, place: impl Fn(u32) -> u32) {
    write(hardware, device + 0x70, 0);
    write(hardware, device + 0x70, 0xb);
    for queue in 0..queues {
        write(hardware, device + 0x30, queue);
        write(hardware, device + 0x38, size);
        for (n, register) in [0x80, 0x90, 0xa0].into_iter().enumerate() {
            write(hardware, device + register, place(3 * queue + n as u32));
        }
        write(hardware, device + 0x44, 1);
    }
    write(hardware, device + 0x70, 0xf);
}

#[test]
fn only_what_is_there_is_opened() {
    let opening = |device| Hardware::new(vec![device]).opening();
    let opened = opening(Emulated::Timer);
    assert_eq!((opened.ports.as_slice(), opened.pages), (std::slice::from_ref(&(0x608..0x60c)), 0..0));
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    let disk = Disk::open(&DiskSpec::new(disk.path())).unwrap();
    let opened = opening(Emulated::VirtioBlock(disk, EngineKind::Threads));
    assert_eq!((opened.ports, opened.pages), (vec![], BLOCK..BLOCK + 0x1000));
}

#[test]
fn a_driver_finds_the_devices() {
    let (mut machine, ..) = machine();
    let hardware = &mut machine.hardware;
    for (device, kind) in [(BLOCK, 2), (NET, 1), (CONSOLE, 3)] {
        assert_eq!(read(hardware, device), u64::from(u32::from_le_bytes(*b"virt")));
        assert_eq!((read(hardware, device + 4), read(hardware, device + 8)), (2, kind));
    }
    assert_eq!(read(hardware, BLOCK + 0x100), 128, "sectors");
    assert_eq!(read(hardware, NET + 0x100) & 0xffff, 2, "the hardware address");
}

#[test]
fn a_queue_that_counts_beyond_its_size_stops_its_device() {
    let (mut machine, memory, _file) = machine();
    // The driver's ring says that 1000 of 4 entries wait.
    memory.host_write(0x1002, &1000u16.to_le_bytes());
    for (device, queues, n) in [(BLOCK, 1, 0), (NET, 2, 1), (CONSOLE, 2, 2)] {
        start(&mut machine.hardware, device, queues, 4, |n| [0, 0x1000, 0x2000][n as usize % 3]);
        machine.sources[n].poll(Instant::now());
        let again = machine.sources[n].poll(Instant::now());
        assert!(again.is_none_or(|again| again > Instant::now()), "nothing is left to do at once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_registers_and_no_queues_are_a_panic(
        writes in prop::collection::vec((0u64..0x3000, any::<u32>()), 0..100),
        pages in prop::collection::vec(any::<[u8; 64]>(), 8),
        size in 0u32..300,
        places in prop::collection::vec(0u32..0x12_0000, 6),
    ) {
        let (mut machine, memory, _file) = machine();
        for (n, page) in pages.iter().enumerate() {
            memory.host_write(n as u64 * 4096, page);
        }
        for (device, queues) in [(BLOCK, 1), (NET, 2), (CONSOLE, 2)] {
            let aligned = |n: u32| places[n as usize % places.len()] & !0xfff & if n < 3 { 0x7fff } else { !0 };
            start(&mut machine.hardware, device, queues, size.next_power_of_two(), aligned);
        }
        for source in &mut machine.sources {
            source.poll(Instant::now());
        }
        for (offset, value) in writes {
            write(&mut machine.hardware, BLOCK + offset, value);
            read(&mut machine.hardware, BLOCK + offset);
            let port = BusAccess { space: Space::Port, address: offset, size: 4, value: Some(value.into()) };
            machine.hardware.access(&port);
            machine.hardware.access(&BusAccess { value: None, ..port });
        }
        for source in &mut machine.sources {
            source.poll(Instant::now());
        }
    }
}
