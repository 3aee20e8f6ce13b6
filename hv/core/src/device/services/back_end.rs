//! The services device as a device of any guest.

use super::ServicesDevice;
use crate::device::{
    BackEnd, ConnectError, Connection, DeviceKind, DoorbellHandler, DrivenBy, RingShape, Served,
};
use hv_abi::device::{CONFIG_SIZE, Config, SERVICES};
use hv_abi::io::services::ServicesConfig;
use hv_abi::ring::Violation;
use std::sync::Arc;

/// Bytes each way: a frame of data fits as a whole.
const BYTES: u32 = 32 << 10;

/// A guest with a services device reaches what its host was told to give it.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: SERVICES,
    name: "a services device",
    key: "services",
    rings: &[RingShape::new::<u8, u8>(BYTES, BYTES)],
    has_doorbells: false,
};

impl BackEnd for Arc<ServicesDevice> {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        ServicesConfig::default().to_config()
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [ring] = connection.rings();
        ServicesDevice::connect(&self, ring)?;
        Ok(DrivenBy::VcpuThread(*self))
    }
}

impl DoorbellHandler for ServicesDevice {
    fn ring(&self) -> Served {
        ServicesDevice::ring(self);
        Served::Running
    }

    fn reset(&self) -> Result<(), Violation> {
        ServicesDevice::reset(self)
    }
}
