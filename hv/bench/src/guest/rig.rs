//! What hv gives to a bench guest: disks, servers and ticks.

use super::GuestError;
use super::tail::Tail;
use crate::emulated::{Emulated, Hardware};
use hv_core::device::block::{Disk, DiskSpec, EngineKind};
use hv_core::device::console::Input;
use hv_core::device::net::user::{UserConfig, UserNet};
use hv_core::domain::Builder;
use hv_host::clock::tsc;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
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
    /// A second virtual CPU, and a thread for each.
    Vcpus "vcpus";
    /// All paravirtual devices.
    All "all";
    /// Emulated devices of the same kinds.
    AllEmulated "all-emulated";
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
    echo: u16,
    sink: u16,
}

impl Rigs {
    /// Makes the disk, and starts the servers; they live as long as the process.
    pub(super) fn new() -> Result<Rigs, GuestError> {
        let failed = |what| move |source| GuestError::Rig { what, source };
        Ok(Rigs {
            disk: disk().map_err(failed("disk"))?,
            echo: serve(|bytes, socket| socket.write_all(bytes)).map_err(failed("server"))?,
            sink: serve(|_, _| Ok(())).map_err(failed("server"))?,
        })
    }

    /// The port of the server that belongs to a rig; 0 if it has none.
    pub(super) fn port(&self, rig: Rig) -> u16 {
        match rig {
            Rig::Echo | Rig::VirtioEcho => self.echo,
            Rig::Sink | Rig::VirtioSink => self.sink,
            _ => 0,
        }
    }

    /// Gives a guest what the rig says; a UART sends to `output`.
    pub(super) fn fit(&self, builder: Builder, rig: Rig, output: &Tail) -> Result<Builder, GuestError> {
        let uart = || Emulated::Uart(Box::new(output.clone()));
        fn hardware<const N: usize>(devices: [Emulated; N]) -> Box<Hardware> {
            Box::new(Hardware::new(devices.into()))
        }
        let timer = |source| GuestError::Rig { what: "timer", source };
        Ok(match rig {
            Rig::Plain => builder,
            Rig::Disk => builder.disk(self.open_disk()?),
            Rig::Echo | Rig::Sink => builder.network(network()?, None),
            Rig::Ticks => builder.input(TickInput::new().map_err(timer)?),
            Rig::Uart => builder.bus(hardware([uart()])),
            Rig::Ata => builder.bus(hardware([self.ata()?])),
            Rig::VirtioDisk => builder.bus(hardware([self.virtio_disk()?])),
            Rig::VirtioEcho | Rig::VirtioSink => builder.bus(hardware([Emulated::VirtioNet(network()?)])),
            Rig::Timer => builder.bus(hardware([Emulated::Timer])),
            Rig::Vcpus => builder.vcpus(2),
            Rig::All => builder.disk(self.open_disk()?).network(network()?, None),
            Rig::AllEmulated => builder.bus(hardware([
                uart(),
                self.ata()?,
                self.virtio_disk()?,
                Emulated::VirtioNet(network()?),
            ])),
        })
    }

    fn open_disk(&self) -> Result<Disk, GuestError> {
        let mut spec = DiskSpec::new(format!("/proc/self/fd/{}", self.disk.as_raw_fd()));
        spec.read_only = true;
        Ok(Disk::open(&spec)?)
    }

    fn virtio_disk(&self) -> Result<Emulated, GuestError> {
        Ok(Emulated::VirtioBlock(self.open_disk()?, EngineKind::Auto))
    }

    fn ata(&self) -> Result<Emulated, GuestError> {
        let file = self.disk.try_clone().map_err(|source| GuestError::Rig { what: "disk", source })?;
        Ok(Emulated::Ata(file))
    }
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

/// A TCP server on the loopback interface: what comes goes to `answer`.
fn serve(answer: fn(&[u8], &mut TcpStream) -> io::Result<()>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let serve_one = move |socket: &mut TcpStream| -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut bytes = vec![0; 256 << 10];
        loop {
            match socket.read(&mut bytes)? {
                0 => return Ok(()),
                count => answer(&bytes[..count], socket)?,
            }
        }
    };
    std::thread::Builder::new().name("hv-bench-server".into()).spawn(move || {
        for mut socket in listener.incoming().flatten() {
            // One guest at a time; one that went away is followed by the next.
            let _ = serve_one(&mut socket);
        }
    })?;
    Ok(port)
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
