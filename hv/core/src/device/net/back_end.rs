//! A network as a device of any guest.

use super::{Capture, NetDevice, Network};
use crate::device::{BackEnd, ConnectError, Connection, DeviceError, DeviceKind, DrivenBy, RingShape};
use hv_abi::device::{CONFIG_SIZE, Config, DeviceInfo, NET};
use hv_abi::io::net::{NetRequest, NetResponse};

/// A ring of frames: so many in flight.
const RING: RingShape = RingShape::new::<NetRequest, NetResponse>(256, 256);

/// Networks are net devices to guests.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: NET,
    name: "a network",
    key: "net",
    // Transmit, receive.
    rings: &[RING, RING],
    has_doorbells: true,
};

/// A network that a guest is about to be connected to.
pub(crate) struct NetBackEnd {
    /// The network.
    pub(crate) network: Box<dyn Network>,
    /// Where its frames are written as well.
    pub(crate) capture: Option<Capture>,
}

impl BackEnd for NetBackEnd {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        self.network.config().to_config()
    }

    /// The guest gets the new configuration: its addresses may have changed.
    fn restore(&self, _: &DeviceInfo) -> Result<[u8; CONFIG_SIZE], DeviceError> {
        Ok(self.config())
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [transmit, receive] = connection.rings();
        let transmit_doorbell = connection.doorbell(&transmit)?;
        let receive_doorbell = connection.doorbell(&receive)?;
        Ok(DrivenBy::IoThread(Box::new(NetDevice::new(
            connection.index,
            (transmit, transmit_doorbell),
            (receive, receive_doorbell),
            self.network,
            self.capture,
        )?)))
    }
}
