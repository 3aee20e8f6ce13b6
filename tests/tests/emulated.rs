//! Emulated hardware: closed to every guest, and to each one that has some, but for its own.

use hv::device::stdio::Buffer;
use hv::{Builder, Engine, Image, KvmPlatform, Outcome};
use hv_bench::emulated::{Emulated, Hardware};
use hv_tests::{Platform, guest, guest_test};
use std::sync::Arc;

struct Host {
    engine: Engine,
    hostile: Arc<Image>,
}

impl Host {
    fn new() -> Host {
        Host {
            engine: Engine::new(KvmPlatform::new().unwrap(), 0).unwrap(),
            hostile: Arc::new(Image::open(&guest("hostile")).unwrap()),
        }
    }

    /// Runs a guest that makes an access, with these devices.
    fn access(&self, what: &str, address: u64, devices: Vec<Emulated>) -> Outcome {
        let mut builder =
            Builder::new(self.hostile.clone()).memory(4 << 20).argument(what).argument(&address.to_string());
        if !devices.is_empty() {
            builder = builder.bus(Box::new(Hardware::new(devices)));
        }
        builder.spawn(&self.engine).unwrap().wait()
    }

    #[track_caller]
    fn dies(&self, what: &str, address: u64, devices: Vec<Emulated>, why: &str) {
        match self.access(what, address, devices) {
            Outcome::Crashed(report) => assert!(report.reason.contains(why), "{}", report.reason),
            other => panic!("{what} {address:#x}: {other:?}"),
        }
    }
}

fn uart() -> Emulated {
    Emulated::Uart(Box::new(Buffer::default()))
}

const PROTECTION: &str = "general protection";

#[guest_test(kvm, "emulated hardware has ports and pages that a process has not")]
fn a_guest_without_devices_reaches_none_of_their_ports_and_pages(_: Platform) {
    let host = Host::new();
    // Every port of every device, and those around them.
    for port in (0x1e8..0x200).chain(0x3f0..0x408).chain(0x600..0x614) {
        for access in ["port-read", "port-write", "port-byte"] {
            host.dies(access, port, Vec::new(), PROTECTION);
        }
    }
    for page in [0xd000_0000, 0xd000_0050, 0xd000_1000, 0xd000_1ff8] {
        host.dies("touch", page, Vec::new(), "page fault");
    }
}

#[guest_test(kvm, "emulated hardware has ports and pages that a process has not")]
fn a_guest_with_a_device_reaches_nothing_else(_: Platform) {
    let host = Host::new();
    for port in 0x3f8..0x400 {
        let outcome = host.access("port-byte", port, vec![uart()]);
        assert!(matches!(outcome, Outcome::Exited(0)), "{port:#x}: {outcome:?}");
    }
    for port in [0x3f7, 0x400, 0x1f0, 0x1f7, 0x608] {
        host.dies("port-byte", port, vec![uart()], PROTECTION);
    }
    // Four bytes that begin at a port of the device, and end behind it.
    host.dies("port-read", 0x3fd, vec![uart()], PROTECTION);
    host.dies("touch", 0xd000_0000, vec![uart()], "page fault");

    let timer = || vec![Emulated::Timer];
    assert!(matches!(host.access("port-read", 0x608, timer()), Outcome::Exited(0)));
    for port in [0x605, 0x609, 0x60c, 0x3f8] {
        host.dies("port-read", port, timer(), PROTECTION);
    }
    // The ABI's own ports are what they were.
    host.dies("port-byte", 0xe0, timer(), "port");
    host.dies("port-read", 0x80, timer(), PROTECTION);
}

#[guest_test(kvm, "emulated hardware has ports and pages that a process has not")]
fn a_guest_with_a_page_of_registers_has_no_other(_: Platform) {
    let host = Host::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = || {
        let spec = hv::device::block::DiskSpec::new(file.path());
        let disk = hv::device::block::Disk::open(&spec).unwrap();
        vec![Emulated::VirtioBlock(disk, hv::device::block::EngineKind::Auto)]
    };
    assert!(matches!(host.access("touch", 0xd000_0070, disk()), Outcome::Exited(0)));
    for page in [0xcfff_f000, 0xd000_1000, 0x1000] {
        host.dies("touch", page, disk(), "page fault");
    }
    host.dies("port-byte", 0x3f8, disk(), PROTECTION);
}

#[guest_test(kvm, "emulated hardware has ports and pages that a process has not")]
fn odd_uses_of_a_device_hurt_its_guest_at_most(_: Platform) {
    let host = Host::new();
    // Platforms may split a string of accesses, or end the guest for it.
    match host.access("port-string", 0x3f8, vec![uart()]) {
        Outcome::Exited(0) => {}
        Outcome::Crashed(report) => assert!(report.reason.contains("port"), "{}", report.reason),
        other => panic!("{other:?}"),
    }
}
