//! ⚠ The device table.
#![allow(unsafe_code, reason = "the device table, which the host writes anew for clones")]

use crate::start_info::start_info;
use hv_abi::device::DeviceInfo;

/// The current entries of the device table. The host rewrites the configurations of net devices when it restores or clones a guest.
///
/// [`block`](crate::block), [`console`](crate::console), `net` and `function` have the drivers.
pub fn devices() -> impl Iterator<Item = DeviceInfo> {
    let info = start_info();
    (0..u64::from(info.device_count)).map(move |n| {
        let address = info.devices.0 + n * u64::from(info.device_stride);
        // SAFETY: the host placed the table beside start-info, aligned and mapped for good, with this many entries. It
        // writes them only while the guest is paused.
        unsafe { (address as *const DeviceInfo).read_volatile() }
    })
}
