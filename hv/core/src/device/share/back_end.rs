//! A share as a device of any guest.
#![forbid(unsafe_code)]

use super::device::ShareDevice;
use crate::device::two_threads::SharedDevice;
use crate::device::{BackEnd, ConnectError, Connection, DeviceError, DeviceKind, DrivenBy, RingShape};
use hv_abi::device::{CONFIG_SIZE, Config, DeviceInfo, SHARE};
use hv_abi::io::share::{ShareConfig, ShareFeatures, ShareRequest, ShareResponse};
use hv_host::escape::escape;
use hv_share::{Folder, Share};
use std::path::PathBuf;

/// Requests in flight.
pub(super) const ENTRIES: u32 = 128;

/// Shares are devices of requests to guests.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: SHARE,
    name: "a share",
    key: "share",
    rings: &[RingShape::new::<ShareRequest, ShareResponse>(ENTRIES, ENTRIES)],
    has_doorbells: true,
};

/// A share that a guest is about to get.
pub(crate) struct ShareBackEnd(pub(crate) Folder);

impl BackEnd for ShareBackEnd {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        self.0.config().to_config()
    }

    fn restore(&self, saved: &DeviceInfo) -> Result<[u8; CONFIG_SIZE], DeviceError> {
        if let Some(config) = ShareConfig::of(saved) {
            same_share(&self.0, &config).map_err(DeviceError::new)?;
        }
        Ok(saved.config)
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [ring] = connection.rings();
        let doorbell = connection.doorbell(&ring)?;
        let share = Share::new(self.0).map_err(|error| DeviceError::new(NoRandomNumbers(error)))?;
        let device = ShareDevice::new(connection.index, ring, doorbell, share)?;
        let (device, source) = SharedDevice::new(device);
        Ok(DrivenBy::Both(source, device))
    }
}

/// No random numbers for handles.
#[derive(Debug, thiserror::Error)]
#[error("cannot read random numbers: {0}")]
struct NoRandomNumbers(#[source] std::io::Error);

/// Another share than the guest had that was saved.
#[derive(Debug, thiserror::Error)]
#[error(
    "share {}: the guest that was saved had {saved} there, and gets {given}; give it with --share FOLDER={saved}",
    escape(path)
)]
struct OtherShare {
    path: PathBuf,
    /// What it is.
    given: String,
    /// What it was.
    saved: String,
}

fn shape(config: &ShareConfig) -> String {
    let features = ShareFeatures::from_bits_truncate(config.features);
    let option = |feature, text| if features.contains(feature) { text } else { "" };
    let read_only = option(ShareFeatures::READ_ONLY, ",ro");
    let unchanging = option(ShareFeatures::UNCHANGING, ",cache=always");
    format!("{}{read_only}{unchanging}", escape(&*String::from_utf8_lossy(config.tag())))
}

/// Refuses a share that the guest would take for another one.
fn same_share(folder: &Folder, saved: &ShareConfig) -> Result<(), OtherShare> {
    let given = folder.config();
    let limits_hold = saved.max_transfer <= given.max_transfer && saved.max_handles <= given.max_handles;
    if given.tag() == saved.tag() && given.features == saved.features && limits_hold {
        return Ok(());
    }
    Err(OtherShare { path: folder.spec().path.clone(), given: shape(&given), saved: shape(saved) })
}
