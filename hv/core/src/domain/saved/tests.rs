//! A guest that is saved. What it wrote over the host's tables is not trusted.

use super::*;
use crate::domain::{Hook, Outcome, Restore};
use crate::engine::Engine;
use crate::platform::kvm::KvmPlatform;
use std::path::Path;

/// A hook that does nothing. A guest that has one is paused until it gets a request.
struct Nobody;

impl Hook for Nobody {
    fn pauses_when_done(&self) -> bool {
        true
    }

    fn done(&self) {}

    fn ended(&self, _: &Outcome) {}
}

#[test]
fn the_device_table_is_the_hosts() {
    let platform = match KvmPlatform::new() {
        Ok(platform) => platform,
        Err(error) => {
            hv_skip::skip(format_args!("needs the platform kvm: {error}"));
            return;
        }
    };
    let engine = Engine::new(platform, 0).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/snapshot-v1");
    let snapshot = Arc::new(Snapshot::open(&golden, &engine).unwrap());
    let before = snapshot.saved().clone();
    let guest = Restore::new(snapshot).hook(Arc::new(Nobody)).spawn(&engine).unwrap();
    // Rings far outside its memory. A guest whose forged snapshot lets it write there can do this.
    let table = vec![0xff; before.devices.len() * size_of::<DeviceInfo>()];
    guest.domain.memory.host_write(before.places.devices, &table);
    let again = guest.capture().unwrap();
    assert_eq!(again.saved().devices.as_bytes(), before.devices.as_bytes());
    assert_eq!((again.saved().places, &again.saved().cpus), (before.places, &before.cpus));
    // The guest resumes from the snapshot.
    Restore::new(Arc::new(again)).hook(Arc::new(Nobody)).spawn(&engine).unwrap();
}
