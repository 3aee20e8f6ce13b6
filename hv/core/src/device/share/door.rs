//! Requests of a guest, carried out on the calling thread, for the fuzz targets.

use super::job::Job;
use crate::memory::GuestMemory;
use hv_abi::Errno;
use hv_abi::io::share::ShareRequest;
pub use hv_share::Share;
use std::sync::Arc;

/// Carries out a request of a guest with this memory. Returns the value of its response.
pub fn carry_out(share: &Share, memory: &Arc<GuestMemory>, request: &ShareRequest) -> Result<u64, Errno> {
    let job = Job::new(request, &share.folder().config(), memory)?.begin(share)?;
    job.try_now(share, &mut u64::MAX).unwrap_or_else(|| job.run(share))
}
