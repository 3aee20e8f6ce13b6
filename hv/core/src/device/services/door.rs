//! The device's side of the host, for the fuzz targets.

use super::ServicesDevice;
use crate::device::Ring;
use hv_abi::ring::Violation;

/// Connects the device to a guest's ring.
pub fn connect(device: &ServicesDevice, ring: Ring) -> Result<(), Violation> {
    device.connect(ring)
}

/// Takes the device back to where its ring's memory is.
pub fn reset(device: &ServicesDevice) -> Result<(), Violation> {
    device.reset()
}
