//! UDP sockets that report datagrams that are too long.

use super::{Error, Stack, UdpSocket, buffer, first};
use alloc::boxed::Box;
use alloc::vec;
use core::ops::{Deref, DerefMut};
use embassy_net::udp::{PacketMetadata, SendError, UdpMetadata};

/// Bytes of the headers of a datagram: IPv4 without options, and UDP.
const HEADERS: usize = 28;

/// A UDP socket on a port of the guest: an [`UdpSocket`] that knows the longest datagram of its network. (`UdpSocket`
/// itself drops longer ones silently.)
pub struct BoundUdpSocket {
    socket: UdpSocket<'static>,
    max_payload: usize,
}

impl BoundUdpSocket {
    /// The longest datagram that can be sent, in bytes of payload: it fills the network's largest packet. Longer
    /// datagrams would need fragments, which are not supported here.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Sends a datagram. Waits until there is space for it.
    ///
    /// # Errors
    ///
    /// [`SendError::PacketTooLarge`] if it is longer than [`max_payload`](Self::max_payload) or than the socket's buffer,
    /// [`SendError::NoRoute`] if the address cannot be reached.
    pub async fn send_to(&self, bytes: &[u8], to: impl Into<UdpMetadata>) -> Result<(), SendError> {
        if bytes.len() > self.max_payload {
            return Err(SendError::PacketTooLarge);
        }
        self.socket.send_to(bytes, to).await
    }
}

impl Deref for BoundUdpSocket {
    type Target = UdpSocket<'static>;

    fn deref(&self) -> &UdpSocket<'static> {
        &self.socket
    }
}

impl DerefMut for BoundUdpSocket {
    fn deref_mut(&mut self) -> &mut UdpSocket<'static> {
        &mut self.socket
    }
}

/// A UDP socket on a port, with buffers for this many bytes and datagrams in each direction.
///
/// # Errors
///
/// [`Error::NoMemory`] if the heap has not enough memory for the buffers, [`Error::NoDevice`] if there is no network.
pub fn udp(
    stack: Stack<'static>,
    port: u16,
    bytes: usize,
    datagrams: usize,
) -> Result<BoundUdpSocket, Error> {
    let (_, config) = first().ok_or(Error::NoDevice)?;
    let metadata = || Box::leak(vec![PacketMetadata::EMPTY; datagrams].into_boxed_slice());
    let (receive, send) = (buffer(bytes).ok_or(Error::NoMemory)?, buffer(bytes).ok_or(Error::NoMemory)?);
    let mut socket = UdpSocket::new(stack, metadata(), receive, metadata(), send);
    socket.bind(port).expect("a new socket on a port that is not 0");
    Ok(BoundUdpSocket { socket, max_payload: usize::from(config.mtu).saturating_sub(HEADERS) })
}
