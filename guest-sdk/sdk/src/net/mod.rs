//! The network: embassy-net's stack over the guest's first net device.
//!
//! ```ignore
//! let stack = net::up(spawner).await?;
//! net::serve(stack, 7, Serve::default(), async |socket| {
//!     let mut bytes = [0; 512];
//!     while let Ok(count @ 1..) = socket.read(&mut bytes).await {
//!         if socket.write_all(&bytes[..count]).await.is_err() { break }
//!     }
//! })?;
//! ```
//!
//! Sockets and addresses are those of [`embassy_net`]. [`resolve`] looks names up.

mod buffers;
mod device;
mod resolve;
mod udp;

pub use buffers::buffer;
pub use embassy_net::tcp::{Error as TcpError, TcpSocket};
pub use embassy_net::udp::UdpSocket;
pub use embassy_net::{IpAddress, IpEndpoint, Ipv4Address, Stack};
pub use resolve::{ResolveError, resolve};
pub use udp::{BoundUdpSocket, udp};

use crate::devices::devices;
use crate::generation::{changed_from, generation};
use crate::start_info::heap_size;
use crate::{executor, random};
use alloc::boxed::Box;
use alloc::rc::Rc;
use device::{Identity, NetDevice};
use embassy_net::{Config, ConfigV4, Ipv4Cidr, StackResources, StaticConfigV4};
use embassy_time::{Duration, with_timeout};
use hv_abi::device::{Config as _, DeviceInfo};
use hv_abi::io::net::{NetConfig, NetFeatures};

/// How long closing a connection may take.
const LINGER: Duration = Duration::from_secs(5);

/// Most sockets of a stack at a time, including those of DNS and DHCP.
pub const SOCKETS: usize = 144;

/// Why there is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The guest was given no net device.
    NoDevice,
    /// The heap has not enough memory for the buffers.
    NoMemory,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Error::NoDevice => "no network: run the guest with --net user or --publish HOST:GUEST",
            Error::NoMemory => "no memory for the network's buffers: run the guest with more --memory",
        })
    }
}

impl core::error::Error for Error {}

/// Brings up the first net device, and returns once it has an address: the one that the host gives in the device's
/// configuration, which takes no time, or else one from DHCP, however long that takes.
///
/// The device's buffers take up to 1/5 of the heap, and 6 MiB at most.
/// Call it once: a second call would take the device away from the first.
///
/// A guest that is restored or cloned continues with the addresses that the host gives it then. Its connections are lost,
/// and the peers are not told.
///
/// # Errors
///
/// [`Error::NoDevice`] if the guest was given no net device, [`Error::NoMemory`] if the heap has not enough memory for its buffers.
pub async fn up(spawner: executor::Spawner) -> Result<Stack<'static>, Error> {
    // Before the configuration is read: the guest may be saved at any time, even before `follow` runs for the first time.
    let generation = generation();
    let (info, config) = first().ok_or(Error::NoDevice)?;
    let memory = (heap_size() / 5).min(6 << 20);
    let identity = Rc::new(Identity::new(config.mac));
    let device = NetDevice::new(&info, config, identity.clone(), memory).ok_or(Error::NoMemory)?;
    let (stack, mut runner) = embassy_net::new(device, addresses(&config), resources(), random::next_u64());
    spawner.spawn(async move { runner.run().await });
    spawner.spawn(follow(stack, identity, generation));
    stack.wait_config_up().await;
    Ok(stack)
}

/// The first net device, as it is configured at present.
fn first() -> Option<(DeviceInfo, NetConfig)> {
    devices().find_map(|info| NetConfig::of(&info).map(|config| (info, config)))
}

/// Updates the addresses of the stack each time that this guest is restored or cloned.
async fn follow(stack: Stack<'static>, identity: Rc<Identity>, mut known: [u8; 16]) {
    loop {
        changed_from(known).await;
        known = generation();
        if let Some((_, config)) = first() {
            identity.set(config.mac);
            // Sets no configuration first: that discards the DHCP lease.
            stack.set_config_v4(ConfigV4::None);
            stack.set_config_v4(addresses(&config).ipv4);
            identity.wake();
        }
    }
}

/// Memory for the sockets. This is a separate function so that its copies of that memory, which are large without
/// optimisation, do not stay on the stack.
#[inline(never)]
fn resources() -> &'static mut StackResources<SOCKETS> {
    Box::leak(Box::new(StackResources::new()))
}

fn addresses(config: &NetConfig) -> Config {
    if !NetFeatures::from_bits_truncate(config.features).contains(NetFeatures::ADDRESS) {
        return Config::dhcpv4(Default::default());
    }
    let given = |address: [u8; 4]| (address != [0; 4]).then(|| Ipv4Address::from(address));
    Config::ipv4_static(StaticConfigV4 {
        address: Ipv4Cidr::new(Ipv4Address::from(config.address), config.prefix.min(32)),
        gateway: given(config.gateway),
        dns_servers: given(config.dns).into_iter().collect(),
    })
}

/// How to serve a TCP port.
#[derive(Clone, Copy, Debug)]
pub struct Serve {
    /// Connections that are served at a time. There is a socket for each, and further connections are refused.
    pub connections: usize,
    /// Size of a connection's receive buffer, in bytes.
    pub receive_buffer: usize,
    /// Size of a connection's send buffer, in bytes.
    pub send_buffer: usize,
    /// A connection on which the peer sends nothing for this time is cut.
    pub idle_timeout: Option<Duration>,
}

impl Default for Serve {
    /// 128 connections, each with 4 KiB to receive and 16 KiB to send, cut after a minute.
    fn default() -> Self {
        Serve {
            connections: 128,
            receive_buffer: 4 << 10,
            send_buffer: 16 << 10,
            idle_timeout: Some(Duration::from_secs(60)),
        }
    }
}

/// Serves a TCP port: `handler` is called with each connection, which is closed normally when the handler returns. Returns at once.
///
/// The buffers are taken from the heap, a quarter of it at most (with less memory there are fewer connections). They cost
/// memory only once they are used.
///
/// # Errors
///
/// [`Error::NoMemory`] if there is not enough memory for the buffers.
#[track_caller]
pub fn serve<H>(stack: Stack<'static>, port: u16, how: Serve, handler: H) -> Result<(), Error>
where
    H: AsyncFn(&mut TcpSocket<'_>) + 'static,
{
    // One allocation for all: an allocator writes beside each block that it returns, and so would touch each of the buffers.
    let each = how.receive_buffer + how.send_buffer;
    let count = how.connections.min(heap_size() / 4 / each.max(1));
    let mut memory = buffer(count * each).filter(|_| count > 0).ok_or(Error::NoMemory)?;
    if count < how.connections {
        log::warn!("port {port}: memory for {count} connections only");
    }
    let handler = Rc::new(handler);
    for _ in 0..count {
        let (receive, send);
        (receive, memory) = memory.split_at_mut(how.receive_buffer);
        (send, memory) = memory.split_at_mut(how.send_buffer);
        executor::spawn(connections(stack, port, how, handler.clone(), receive, send));
    }
    Ok(())
}

/// Serves one connection after the other.
async fn connections<H>(
    stack: Stack<'static>,
    port: u16,
    how: Serve,
    handler: Rc<H>,
    receive: &'static mut [u8],
    send: &'static mut [u8],
) where
    H: AsyncFn(&mut TcpSocket<'_>) + 'static,
{
    loop {
        let mut socket = TcpSocket::new(stack, receive, send);
        // Answers are written as a whole: waiting for more data to send would only delay them.
        socket.set_nagle_enabled(false);
        socket.set_timeout(how.idle_timeout);
        if let Err(error) = socket.accept(port).await {
            log::error!("port {port}: {error:?}");
            return;
        }
        // On the heap only while there is a connection: the state that a handler keeps across its awaits can be large.
        Box::pin(handler(&mut socket)).await;
        socket.close();
        if with_timeout(LINGER, socket.flush()).await.is_err() {
            socket.abort();
            let _ = with_timeout(LINGER, socket.flush()).await;
        }
    }
}
