//! The function device as a device of any guest.

use super::FunctionDevice;
use crate::device::{
    BackEnd, ConnectError, Connection, DeviceKind, DoorbellHandler, DrivenBy, RingShape, Served,
};
use hv_abi::device::{CONFIG_SIZE, Config, FUNCTION};
use hv_abi::io::function::{FunctionConfig, TRAILERS};
use hv_abi::ring::Violation;
use std::sync::Arc;

/// Bytes each way: more than the largest head.
const BYTES: u32 = 32 << 10;

/// A guest with a function device is a function.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: FUNCTION,
    name: "a function device",
    key: "function",
    rings: &[RingShape::new::<u8, u8>(BYTES, BYTES)],
    has_doorbells: false,
};

impl BackEnd for Arc<FunctionDevice> {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        FunctionConfig { flags: TRAILERS }.to_config()
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [ring] = connection.rings();
        FunctionDevice::connect(&self, ring)?;
        Ok(DrivenBy::VcpuThread(*self))
    }
}

impl DoorbellHandler for FunctionDevice {
    fn ring(&self) -> Served {
        FunctionDevice::ring(self)
    }

    fn reset(&self) -> Result<(), Violation> {
        FunctionDevice::reset(self)
    }
}
