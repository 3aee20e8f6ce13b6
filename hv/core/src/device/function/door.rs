//! The device's side of the host, for the fuzz targets.

use super::{Answer, FunctionDevice};
use crate::device::Ring;
use hv_abi::ring::Violation;

/// Connects the device to a guest's ring.
pub fn connect(device: &FunctionDevice, ring: Ring) -> Result<(), Violation> {
    device.connect(ring)
}

/// Begins a request, as a call of a function does.
pub fn begin(device: &FunctionDevice, head: &[u8], answer: Box<dyn Answer>) -> u64 {
    device.begin(head, answer)
}

/// Sends some of the request's body.
pub fn send(device: &FunctionDevice, number: u64, body: &[u8]) -> usize {
    device.send(number, body)
}

/// Ends the request.
pub fn finish(device: &FunctionDevice, number: u64, complete: bool) {
    device.finish(number, complete);
}

/// The guest's doorbell.
pub fn ring(device: &FunctionDevice) {
    device.ring();
}

/// Takes the exchange off the device; whether there was one that had no answer yet.
pub fn take(device: &FunctionDevice) -> Option<bool> {
    device.take().map(|left| !left.ended)
}

/// Takes the device back to where its ring's memory is.
pub fn reset(device: &FunctionDevice) -> Result<(), Violation> {
    device.reset()
}
