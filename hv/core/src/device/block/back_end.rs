//! A disk as a device of any guest.
#![forbid(unsafe_code)]

use super::{BlockDevice, Disk, EngineKind, Parts};
use crate::device::two_threads::SharedDevice;
use crate::device::{BackEnd, ConnectError, Connection, DeviceError, DeviceKind, DrivenBy, RingShape};
use hv_abi::device::{BLOCK, CONFIG_SIZE, Config, DeviceInfo};
use hv_abi::io::block::{BlockConfig, BlockFeatures, BlockRequest, BlockResponse};
use hv_host::escape::escape;
use std::path::PathBuf;

/// Requests in flight.
const ENTRIES: u32 = 128;

/// Disks are block devices to guests.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: BLOCK,
    name: "a disk",
    key: "block",
    rings: &[RingShape::new::<BlockRequest, BlockResponse>(ENTRIES, ENTRIES)],
    has_doorbells: true,
};

/// A disk that a guest is about to get.
pub(crate) struct DiskBackEnd {
    /// The disk.
    pub(crate) disk: Disk,
    /// How to work on it.
    pub(crate) engine: EngineKind,
}

impl BackEnd for DiskBackEnd {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        self.disk.config().to_config()
    }

    fn restore(&self, saved: &DeviceInfo) -> Result<[u8; CONFIG_SIZE], DeviceError> {
        if let Some(config) = BlockConfig::of(saved) {
            same_disk(saved.index, &self.disk, &config).map_err(DeviceError::new)?;
        }
        Ok(saved.config)
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [ring] = connection.rings();
        let device = BlockDevice::new(Parts {
            index: connection.index,
            doorbell: connection.doorbell(&ring)?,
            ring,
            entries: ENTRIES,
            spin: self.disk.spin(),
            disk: self.disk,
            engine: self.engine,
        });
        let (device, source) = SharedDevice::new(device.map_err(DeviceError::new)?);
        Ok(DrivenBy::Both(source, device))
    }
}

/// Another disk than the guest had that was saved.
#[derive(Debug, thiserror::Error)]
#[error("disk {index} ({}) has {}; the guest that was saved had one of {}", escape(path), shape(.given), shape(.saved))]
struct OtherDisk {
    /// Counts the disks from 0.
    index: u32,
    path: PathBuf,
    /// What it is.
    given: BlockConfig,
    /// What it was.
    saved: BlockConfig,
}

fn shape(config: &BlockConfig) -> String {
    let read_only = BlockFeatures::from_bits_truncate(config.features).contains(BlockFeatures::READ_ONLY);
    let kind = if read_only { "read-only" } else { "writable" };
    format!("{} sectors of {} bytes, {kind}", config.sectors, config.sector_size)
}

/// Refuses a disk that the guest would take for what it is not.
fn same_disk(index: u32, disk: &Disk, saved: &BlockConfig) -> Result<(), OtherDisk> {
    let given = disk.config();
    let size_and_kind = |config: &BlockConfig| (config.sectors, config.sector_size, config.features);
    let limits_hold = saved.max_transfer <= given.max_transfer && saved.max_segments <= given.max_segments;
    if size_and_kind(&given) == size_and_kind(saved) && limits_hold {
        return Ok(());
    }
    Err(OtherDisk { index, path: disk.path().to_path_buf(), given, saved: *saved })
}
