//! What a function reaches through its host: stores, blobs, secrets and connections.
//!
//! ```ignore
//! use hv_guest::services::{TcpStream, blob, secrets, store};
//!
//! let visits = store::open("visits")?;
//! let count = visits.update("count", |old| next(old)).await?;
//! let logo = blob::open("pictures")?.get("logo.png").await?;
//! let token = secrets::get("TOKEN").await?;
//! let mut stream = TcpStream::connect("db.example.org:5432").await?;
//! ```
//!
//! The function's table in the configuration of `hv serve` names all of it; nothing else is there. Nothing is there before the first
//! request either, so that no snapshot has any of it. All that a request has begun ends with its answer.
//!
//! The operations are those of [`hv_guest_services`]. This module connects them to the device.
#![forbid(unsafe_code)]

pub use hv_guest_services::{Condition, Entry, Error, Secret, Value, Version};

use crate::devices::devices;
use crate::ring::RingMemory;
use crate::sync::{OnceLock, RawMutex};
use crate::{doorbell, event};
use core::task::Waker;
use hv_abi::EventPort;
use hv_abi::device::SERVICES;
use hv_guest_services::{Channel, Link, Reach};

/// A store.
pub type Store = hv_guest_services::Store<'static, Device>;
/// Blobs.
pub type Blobs = hv_guest_services::Blobs<'static, Device>;
/// A blob that is read.
pub type Reader = hv_guest_services::Reader<'static, Device>;
/// A blob that is written.
pub type Writer = hv_guest_services::Writer<'static, Device>;
/// A TCP connection.
pub type TcpStream = hv_guest_services::TcpStream<'static, Device>;
/// A UDP socket.
pub type UdpSocket = hv_guest_services::UdpSocket<'static, Device>;

/// The services device of this guest.
#[derive(Debug)]
pub struct Device {
    port: EventPort,
}

static CHANNEL: OnceLock<Option<Channel<Device>>> = OnceLock::new();

impl Reach for Device {
    fn channel() -> Result<&'static Channel<Device>, Error> {
        let channel = CHANNEL.get_or_init(|| {
            let info = devices().find(|device| device.kind == SERVICES)?;
            let ring = &info.rings[0];
            let (memory, layout) = RingMemory::new::<u8, u8>(ring)?;
            Some(Channel::new(Device { port: ring.event }, memory, &layout))
        });
        channel.as_ref().ok_or(Error::NoDevice)
    }
}

impl Link for Device {
    type Memory = RingMemory;
    type Lock = RawMutex;

    fn ring_soon(&self) {
        doorbell::ring_soon(self.port);
    }

    fn register(&self, waker: &Waker) {
        event::register(self.port, waker);
    }
}

/// Key-value stores.
pub mod store {
    use super::{Device, Error, Reach, Store};

    /// The store of this name. Whether the function was given it shows when it is used.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`].
    pub fn open(name: &str) -> Result<Store, Error> {
        Ok(Store::new(Device::channel()?, name))
    }
}

/// Blobs: bytes of any size.
pub mod blob {
    use super::{Blobs, Device, Error, Reach};

    /// The blobs of this name. Whether the function was given them shows when they are used.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`].
    pub fn open(name: &str) -> Result<Blobs, Error> {
        Ok(Blobs::new(Device::channel()?, name))
    }
}

/// Secrets.
pub mod secrets {
    use super::{Device, Error, Reach, Secret};

    /// The secret of this name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the function was given none of this name; and all other [`Error`]s.
    pub async fn get(key: &str) -> Result<Secret, Error> {
        hv_guest_services::secret(Device::channel()?, key).await
    }
}
