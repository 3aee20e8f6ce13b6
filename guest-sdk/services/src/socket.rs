//! Connections to elsewhere.

use crate::call::{Call, Open};
use crate::{Channel, Error, Link};
use core::fmt;
use core::future::poll_fn;
use embedded_io_async::{ErrorType, Read, Write};
use hv_abi::io::services::Operation;

/// A link whose channel is always at hand: that of the one services device of a guest.
pub trait Reach: Link + Sized + 'static {
    /// The channel.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`].
    fn channel() -> Result<&'static Channel<Self>, Error>;
}

/// Takes `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port` apart.
fn split(target: &str) -> Result<(&str, u64), Error> {
    let invalid = || Error::Invalid("write NAME:PORT, as in example.org:443 or [2001:db8::1]:443".into());
    let (name, port) = target.rsplit_once(':').ok_or_else(invalid)?;
    let port: u16 = port.parse().map_err(|_| invalid())?;
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    if name.is_empty() || bare.is_none() && name.contains(':') {
        return Err(invalid());
    }
    Ok((bare.unwrap_or(name), port.into()))
}

async fn connect<'a, L: Link>(
    channel: &'a Channel<L>,
    operation: Operation,
    target: &str,
) -> Result<Call<'a, L>, Error> {
    let (name, first) = split(target)?;
    let call = Call::open(channel, operation, Open { name, first, ..Open::default() }, false)?;
    call.answer().await?;
    Ok(call)
}

/// A TCP connection that the host has made for this guest. It ends when it is dropped, and with the guest.
pub struct TcpStream<'a, L: Link> {
    call: Call<'a, L>,
}

impl<L: Reach> TcpStream<'static, L> {
    /// Connects to `name:port`, where the name may be an address.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] if the function's `net` does not have it, [`Error::Unreachable`] if there is no connection; and all other [`Error`]s.
    pub async fn connect(target: &str) -> Result<Self, Error> {
        Self::connect_on(L::channel()?, target).await
    }
}

impl<'a, L: Link> TcpStream<'a, L> {
    /// As `connect`, over this channel.
    ///
    /// # Errors
    ///
    /// As `connect`.
    pub async fn connect_on(channel: &'a Channel<L>, target: &str) -> Result<Self, Error> {
        Ok(TcpStream { call: connect(channel, Operation::TcpConnect, target).await? })
    }

    /// Sends no more; what comes from the other side can still be read.
    pub fn shutdown(&mut self) {
        self.call.finish();
    }
}

impl<L: Link> ErrorType for TcpStream<'_, L> {
    type Error = Error;
}

impl<L: Link> Read for TcpStream<'_, L> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Error> {
        self.call.read(bytes).await
    }
}

impl<L: Link> Write for TcpStream<'_, L> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if bytes.is_empty() {
            return Ok(0);
        }
        poll_fn(|context| self.call.poll_write(context, bytes, false)).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl<L: Link> fmt::Debug for TcpStream<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream").finish_non_exhaustive()
    }
}

/// A UDP socket of the host for this guest, which sends to one address and receives from there.
pub struct UdpSocket<'a, L: Link> {
    call: Call<'a, L>,
}

impl<L: Reach> UdpSocket<'static, L> {
    /// A socket for `name:port`, where the name may be an address.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] if the function's `net` does not have it; and all other [`Error`]s.
    pub async fn connect(target: &str) -> Result<Self, Error> {
        Self::connect_on(L::channel()?, target).await
    }
}

impl<'a, L: Link> UdpSocket<'a, L> {
    /// As `connect`, over this channel.
    ///
    /// # Errors
    ///
    /// As `connect`.
    pub async fn connect_on(channel: &'a Channel<L>, target: &str) -> Result<Self, Error> {
        Ok(UdpSocket { call: connect(channel, Operation::UdpConnect, target).await? })
    }

    /// Sends a datagram, which may be lost on its way.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] for more than 16 KiB; and all other [`Error`]s.
    pub async fn send(&self, datagram: &[u8]) -> Result<(), Error> {
        if datagram.len() > hv_abi::io::services::DATA_MAX as usize {
            return Err(Error::TooLarge("a datagram has at most 16 KiB".into()));
        }
        poll_fn(|context| self.call.poll_write(context, datagram, true)).await.map(drop)
    }

    /// Receives a datagram, and returns its length. What does not fit is dropped.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn recv(&self, bytes: &mut [u8]) -> Result<usize, Error> {
        let frame = poll_fn(|context| self.call.poll_frame(context)).await?;
        let frame = frame.ok_or_else(|| Error::Failed("the host has closed the socket".into()))?;
        let count = frame.len().min(bytes.len());
        bytes[..count].copy_from_slice(&frame[..count]);
        Ok(count)
    }
}

impl<L: Link> fmt::Debug for UdpSocket<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_a_name_or_an_address_and_a_port() {
        assert_eq!(split("example.org:443"), Ok(("example.org", 443)));
        assert_eq!(split("192.0.2.1:1"), Ok(("192.0.2.1", 1)));
        assert_eq!(split("[2001:db8::1]:53"), Ok(("2001:db8::1", 53)));
        for wrong in ["", ":1", "a", "a:", "a:65536", "a:-1", "2001:db8::1:53", "[::1]", "[]:"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
