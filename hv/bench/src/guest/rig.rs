//! What hv gives to a bench guest: disks, servers and ticks.

use super::GuestError;
use super::tail::Tail;
use crate::emulated::{Emulated, Hardware};
use crate::files::Files;
use hv_core::device::block::{Disk, DiskSpec, EngineKind};
use hv_core::device::console::Input;
use hv_core::device::net::user::{UserConfig, UserNet};
use hv_core::device::share::{Folder, ShareSpec, Tag};
use hv_core::domain::Builder;
use hv_host::clock::tsc;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

macro_rules! rigs {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// The devices and servers that an operation needs besides a console.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Rig {
            $($(#[$doc])* $variant,)*
        }

        impl Rig {
            /// The rig that a guest asks for by this name.
            pub(super) fn of(name: &str) -> Option<Rig> {
                match name { $($name => Some(Rig::$variant),)* _ => None }
            }
        }
    };
}

rigs! {
    /// Nothing.
    Plain "plain";
    /// A read-only disk whose file is in the page cache.
    Disk "disk";
    /// A network, and a TCP server that returns what it gets.
    Echo "echo";
    /// A network, and a TCP server that throws away what it gets.
    Sink "sink";
    /// Console input that ticks.
    Ticks "ticks";
    /// An emulated UART, connected to what the console is.
    Uart "uart";
    /// The disk behind an emulated ATA controller.
    Ata "ata";
    /// The disk behind virtio-mmio.
    VirtioDisk "virtio-disk";
    /// The network and the server of `Echo`, behind virtio-mmio.
    VirtioEcho "virtio-echo";
    /// The network and the server of `Sink`, behind virtio-mmio.
    VirtioSink "virtio-sink";
    /// An emulated ACPI timer.
    Timer "timer";
    /// An emulated HPET.
    Hpet "hpet";
    /// A disk that can be written, through the page cache.
    WritableDisk "writable-disk";
    /// The disk of `Disk`, read past the page cache.
    DirectDisk "direct-disk";
    /// A network, and a TCP server that sends without end.
    Source "source";
    /// The network and the server of `Source`, behind virtio-mmio.
    VirtioSource "virtio-source";
    /// The disk of `Disk`, whose back end does not poll.
    DiskAsleep "disk-asleep";
    /// The disk of `VirtioDisk`, whose device does not poll.
    VirtioDiskAsleep "virtio-disk-asleep";
    /// A virtio console, connected to what the console is.
    VirtioConsole "virtio-console";
    /// Virtio console, disk and network.
    AllVirtio "all-virtio";
    /// A second virtual CPU, and a thread for each.
    Vcpus "vcpus";
    /// A share, read-only.
    Share "share";
    /// All paravirtual devices.
    All "all";
    /// Emulated devices of the same kinds.
    AllEmulated "all-emulated";
}

impl Rig {
    /// Whether the devices that are measured are emulated ones.
    pub(super) fn is_emulated(self) -> bool {
        use Rig::{
            All, DirectDisk, Disk, DiskAsleep, Echo, Plain, Share, Sink, Source, Ticks, Vcpus, WritableDisk,
        };
        !matches!(
            self,
            All | DirectDisk
                | Disk
                | DiskAsleep
                | Echo
                | Plain
                | Share
                | Sink
                | Source
                | Ticks
                | Vcpus
                | WritableDisk
        )
    }
}

/// Bytes of the disk: larger than the processor's caches below the last.
const DISK: u64 = 64 << 20;

/// Time from one tick to the next: enough for a guest to have gone to sleep.
const TICK: Duration = Duration::from_micros(500);

/// The hardware address of bench guests: locally administered.
const MAC: [u8; 6] = [0x02, 0x68, 0x76, 0, 0, 1];

/// Everything that lasts from guest to guest.
pub(super) struct Rigs {
    disk: File,
    writable: File,
    echo: u16,
    sink: u16,
    source: u16,
    pub(super) files: Rc<Files>,
}

impl Rigs {
    /// Makes the disk, and starts the servers; they live as long as the process.
    pub(super) fn new() -> Result<Rigs, GuestError> {
        let failed = |what| move |source| GuestError::Rig { what, source };
        Ok(Rigs {
            disk: disk().map_err(failed("disk"))?,
            writable: disk().map_err(failed("disk"))?,
            echo: serve(|socket| answer(socket, |bytes, socket| socket.write_all(bytes)))
                .map_err(failed("server"))?,
            sink: serve(|socket| answer(socket, |_, _| Ok(()))).map_err(failed("server"))?,
            source: serve(send).map_err(failed("server"))?,
            files: Rc::default(),
        })
    }

    /// The port of the server that belongs to a rig; 0 if it has none.
    pub(super) fn port(&self, rig: Rig) -> u16 {
        match rig {
            Rig::Echo | Rig::VirtioEcho => self.echo,
            Rig::Sink | Rig::VirtioSink => self.sink,
            Rig::Source | Rig::VirtioSource => self.source,
            _ => 0,
        }
    }

    /// Whether this host has what the rig needs.
    pub(super) fn has(&self, rig: Rig) -> bool {
        rig != Rig::DirectDisk || Disk::open(&self.direct()).is_ok()
    }

    /// Gives a guest what the rig says; a UART or a virtio console sends to `output`.
    pub(super) fn fit(&self, builder: Builder, rig: Rig, output: &Tail) -> Result<Builder, GuestError> {
        let uart = || Emulated::Uart(Box::new(output.clone()));
        let virtio_console = || Emulated::VirtioConsole(Box::new(output.clone()));
        fn hardware<const N: usize>(devices: [Emulated; N]) -> Box<Hardware> {
            Box::new(Hardware::new(devices.into()))
        }
        let timer = |source| GuestError::Rig { what: "timer", source };
        Ok(match rig {
            Rig::Plain => builder,
            Rig::Disk => builder.disk(self.open_disk(true)?),
            Rig::DiskAsleep => builder.disk(self.open_disk(false)?),
            Rig::WritableDisk => builder.disk(Disk::open(&spec(&self.writable))?),
            Rig::DirectDisk => builder.disk(Disk::open(&self.direct())?),
            Rig::Echo | Rig::Sink | Rig::Source => builder.network(network()?, None),
            Rig::Ticks => builder.input(TickInput::new().map_err(timer)?),
            Rig::Uart => builder.bus(hardware([uart()])),
            Rig::Ata => builder.bus(hardware([self.ata()?])),
            Rig::VirtioDisk => builder.bus(hardware([self.virtio_disk(true)?])),
            Rig::VirtioDiskAsleep => builder.bus(hardware([self.virtio_disk(false)?])),
            Rig::VirtioConsole => builder.bus(hardware([virtio_console()])),
            Rig::VirtioEcho | Rig::VirtioSink | Rig::VirtioSource => {
                builder.bus(hardware([Emulated::VirtioNet(network()?)]))
            }
            Rig::Timer => builder.bus(hardware([Emulated::Timer])),
            Rig::Hpet => builder.bus(hardware([Emulated::Hpet])),
            Rig::Vcpus => builder.vcpus(2),
            Rig::Share => builder.folder(self.share()?),
            Rig::All => builder.disk(self.open_disk(true)?).network(network()?, None),
            Rig::AllEmulated => builder.bus(hardware([
                uart(),
                self.ata()?,
                self.virtio_disk(true)?,
                Emulated::VirtioNet(network()?),
            ])),
            Rig::AllVirtio => builder.bus(hardware([
                virtio_console(),
                self.virtio_disk(true)?,
                Emulated::VirtioNet(network()?),
            ])),
        })
    }

    /// The disk; its back end polls, or does not.
    fn open_disk(&self, polls: bool) -> Result<Disk, GuestError> {
        let spec = DiskSpec { read_only: true, ..spec(&self.disk) };
        let mut disk = Disk::open(&spec)?;
        disk.set_polling(polls);
        Ok(disk)
    }

    fn share(&self) -> Result<Folder, GuestError> {
        let path = self.files.path().map_err(|source| GuestError::Rig { what: "share", source })?;
        let tag = Tag::new("files").expect("letters");
        Ok(Folder::open(&ShareSpec {
            path: path.into(),
            tag,
            read_only: true,
            unchanging: false,
            uid: None,
        })?)
    }

    fn direct(&self) -> DiskSpec {
        DiskSpec { read_only: true, direct: true, ..spec(&self.disk) }
    }

    fn virtio_disk(&self, polls: bool) -> Result<Emulated, GuestError> {
        Ok(Emulated::VirtioBlock(self.open_disk(polls)?, EngineKind::Auto))
    }

    fn ata(&self) -> Result<Emulated, GuestError> {
        let file = self.disk.try_clone().map_err(|source| GuestError::Rig { what: "disk", source })?;
        Ok(Emulated::Ata(file))
    }
}

/// The disk in this file.
fn spec(file: &File) -> DiskSpec {
    DiskSpec::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn network() -> Result<Box<UserNet>, GuestError> {
    // The servers that it is measured with are on the loopback interface.
    let config = UserConfig { host_loopback: true, ..UserConfig::new(MAC) };
    Ok(Box::new(UserNet::new(config)?))
}

/// A file without a name, every page of it in the page cache.
///
/// Not one in memory (`memfd`, tmpfs): the kernel hands reads of those to other
/// threads when they come by io_uring, and how these get a processor would be what is measured.
fn disk() -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let chunk: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for _ in 0..DISK / chunk.len() as u64 {
        file.write_all(&chunk)?;
    }
    // Or it would be written to the disk while something is measured.
    file.sync_data()?;
    Ok(file)
}

/// A TCP server on the loopback interface, with a thread for each connection.
fn serve(connection: fn(&mut TcpStream) -> io::Result<()>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let serve_one = move |mut socket: TcpStream| {
        // A guest that went away, or a socket that has no options, is followed by the next.
        let _ = socket.set_nodelay(true).and_then(|()| connection(&mut socket));
    };
    std::thread::Builder::new().name("hv-bench-server".into()).spawn(move || {
        for socket in listener.incoming().flatten() {
            // A connection that gets no thread is closed.
            let _ = std::thread::Builder::new().name("hv-bench-peer".into()).spawn(move || serve_one(socket));
        }
    })?;
    Ok(port)
}

/// What comes goes to `with`, until the guest ends.
fn answer(socket: &mut TcpStream, with: fn(&[u8], &mut TcpStream) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = vec![0; 256 << 10];
    loop {
        match socket.read(&mut bytes)? {
            0 => return Ok(()),
            count => with(&bytes[..count], socket)?,
        }
    }
}

/// Sends until the guest ends.
fn send(socket: &mut TcpStream) -> io::Result<()> {
    let bytes = vec![b'x'; 256 << 10];
    loop {
        socket.write_all(&bytes)?;
    }
}

/// Console input that comes every [`TICK`]: what the counter reads when the
/// console's back end takes it over, in eight bytes.
struct TickInput(OwnedFd);

impl TickInput {
    fn new() -> io::Result<TickInput> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let every = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
        let times = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        Ok(TickInput(timer))
    }
}

impl Input for TickInput {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // A guest that reads no ticks is sent none.
        let Some(tick) = bytes.first_chunk_mut::<8>() else { return Err(ErrorKind::WouldBlock.into()) };
        rustix::io::read(&self.0, &mut *tick)?;
        *tick = tsc().to_le_bytes();
        Ok(tick.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }
}
