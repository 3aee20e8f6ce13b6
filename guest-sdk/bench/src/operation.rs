//! What an operation is.
#![forbid(unsafe_code)]

use crate::meter::Meter;
use alloc::string::String;

/// Something whose cost is measured.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name: small letters, digits and hyphens.
    pub name: &'static str,
    /// The group that it is shown in: one of those of `hv bench --help`.
    pub group: &'static str,
    /// What it is compared with: the name of another operation, of this guest or of hv itself.
    pub against: Option<&'static str>,
    /// What hv has to give to the guest.
    pub rig: Rig,
    /// Bytes that one operation moves; 0 if that is not what it is about.
    pub bytes: u64,
    /// The curve that it is a point of, and where: so many operations at a time.
    pub curve: Option<(&'static str, u32)>,
    /// What is measured, in one sentence.
    pub what: &'static str,
    /// Measures it.
    pub run: fn(&mut Meter) -> Result<(), String>,
}

/// What an operation needs besides a console.
#[derive(Clone, Copy, Debug)]
pub enum Rig {
    /// Nothing.
    Plain,
    /// A read-only disk, in the host's page cache, of sectors of 512 bytes.
    Disk,
    /// A network, and a TCP server of the host that returns what it gets.
    Echo,
    /// A network, and a TCP server of the host that throws away what it gets.
    Sink,
    /// Console input: every now and then eight bytes, which say what the
    /// counter read when the host began to pass them on.
    Ticks,
    /// An emulated UART, whose bytes go where the console's go.
    Uart,
    /// The same disk behind an emulated ATA controller.
    Ata,
    /// The same disk behind virtio-mmio.
    VirtioDisk,
    /// The network of `Echo` behind virtio-mmio.
    VirtioEcho,
    /// The network of `Sink` behind virtio-mmio.
    VirtioSink,
    /// An emulated ACPI timer.
    Timer,
    /// An emulated HPET.
    Hpet,
    /// A disk that can be written.
    WritableDisk,
    /// The disk of `Disk`, read past the host's page cache. Not every host has that.
    DirectDisk,
    /// A network, and a TCP server of the host that sends without end.
    Source,
    /// The network of `Source` behind virtio-mmio.
    VirtioSource,
    /// The disk of `Disk`, whose back end does not poll.
    DiskAsleep,
    /// The disk of `VirtioDisk`, whose device does not poll.
    VirtioDiskAsleep,
    /// A virtio console, whose bytes go where the console's go.
    VirtioConsole,
    /// A second virtual CPU.
    Vcpus,
    /// A share, read-only: a folder with many files, and one with a large one.
    Share,
}

impl Rig {
    /// Its name in the list that hv reads.
    pub fn name(self) -> &'static str {
        match self {
            Rig::Plain => "plain",
            Rig::Disk => "disk",
            Rig::Echo => "echo",
            Rig::Sink => "sink",
            Rig::Ticks => "ticks",
            Rig::Uart => "uart",
            Rig::Ata => "ata",
            Rig::VirtioDisk => "virtio-disk",
            Rig::VirtioEcho => "virtio-echo",
            Rig::VirtioSink => "virtio-sink",
            Rig::Timer => "timer",
            Rig::Hpet => "hpet",
            Rig::WritableDisk => "writable-disk",
            Rig::DirectDisk => "direct-disk",
            Rig::Source => "source",
            Rig::VirtioSource => "virtio-source",
            Rig::DiskAsleep => "disk-asleep",
            Rig::VirtioDiskAsleep => "virtio-disk-asleep",
            Rig::VirtioConsole => "virtio-console",
            Rig::Vcpus => "vcpus",
            Rig::Share => "share",
        }
    }
}
